"""The text from which the vocabularies of the embedded models are made."""

import random
import string
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SEED = 0


def phrases(text: str) -> list[str]:
    """Split a text at newlines and bars, or into words if it has no bars."""
    return text.strip().replace("\n", "|").split("|") if "|" in text else text.split()


SUBJECTS = phrases("""
I|you|we|they|the teacher|the student|my friend|her brother|his sister|our neighbour|the doctor
the driver|a young woman|an old man|the children|the people in the house|the company|the city
the government|the writer|the king|a small group|the other team|the family|the computer|the model
every person|the first man|the second woman|no one|someone|everyone here|the cat|the dog|a bird
""")
VERBS = phrases("""
made|took|found|saw|gave back|looked for|worked on|asked about|thought of|wrote down|used|changed
opened|closed|bought|sold|started with|finished|learned about|understood|liked|wanted|needed|kept
left|moved|read about|talked about|waited for|remembered|forgot|carried|will answer|can help with
should check|must show|would follow|could build|does not know|did not believe|is going to use
has never seen|have already tried|was looking at|were thinking about|might need|may choose
""")
OBJECTS = phrases("""
the book|a letter|the question|an answer|the problem|the water|some food|the money|the door
the window|a new car|the old house|the long road|the big tree|a small table|the right word
the wrong number|the next sentence|the last line|a good reason|the whole story|the news|the world
the country|the school|the music|the picture|this place|that idea|these things|those days
the light|the power of the state|a different way|the same name|the best part|the result|the test
the information|the language|the meaning of the text|an example|the summary|the translation
""")
ENDINGS = phrases("""
today|yesterday|tomorrow|last year|this week|in the morning|at night|after the war|before dinner
for a long time|with great care|without help|because it was late|when the rain stopped
while they were away|if there is time|so that others could see it|although it was difficult
near the river|under the bridge|over the mountain|between the two towns|from the beginning
again and again|very quickly|as soon as possible|only once|more than before|just like that
in the middle of the street|on the other side|at home|by hand|during the summer|until the end
""")
INSTRUCTIONS = phrases("""
add one|answer the question|translate the sentence|summarize the text|write a summary
is this correct|does this follow|choose the best answer|read the next paragraph|explain why
give an example|what is the result|which number comes next|count the words|who wrote this
where is it|how many are there
""")
WORDS = phrases("""
above across act action age air animal area arm art away baby ball bank base bear beat bed behind
being below beside big black blood blue board boat body bone bottom box bread break bring brown
business buy call capital care case cause cell center century certain chance charge check chief
church circle claim class clear clock clothes cloud cold color common complete condition control
cook copy corn corner cost cotton course court cover cross crowd cry current cut dance danger dark
daughter dead deal death decide deep degree design develop die direct discover divide double down
draw dream dress drink drop dry during each ear early earth east easy eat edge effect egg eight
electric element else end energy engine enough enter equal evening event exact except expect
experience eye face fact fair fall famous far farm fast father favor fear feel few field fight
figure fill final fine fire fish fit five floor flow flower fly food foot force foreign forest form
forward four free fresh front fruit full game garden gas general girl glad glass gold govern grand
grass green ground grow guess guide gun hair half happy hard hat head hear heart heat heavy high
hill history hold hole hope horse hospital hot hour huge human hundred hunt ice imagine inch include
indicate industry insect interest invent iron island job join judge jump key kind knee lake large
laugh law lay lead least leg less level lie life lift list listen local loud love low machine
magnet major market mass master match material matter mean measure meat meet member metal method
mile milk million mind mine minute miss modern molecule moment month moon mother mount mouth
multiply nation natural nature neck noise noon north nose note notice noun object observe ocean
office oil open operate opposite order organ original own oxygen page paint pair paper parent party
pass past path pattern pay perhaps period phrase piece plain plan plane planet plant play please
plural point poor populate port pose position post pound practice prepare present press pretty
print probable process produce product program property protect prove provide public pull push
quart quick quiet quite race radio raise range rate reach ready real receive record red region
repeat reply report represent require rest rich ride ring rise rock roll room root rope rose round
row rub rule safe sail salt sand save scale science score sea search season seat section seed seem
segment select self send sense separate serve set seven several shape share sharp shell shine ship
shoe shop shore short shoulder shout side sight sign silent silver similar simple sing single sit
six size skill skin sky sleep slip slow smell smile snow social soft soil soldier solution solve
son song sound south space speak special speech speed spell spend spoke spot spread spring square
stand star station stay steam steel step stick still stone store straight strange stream stretch
string strong subject substance sudden suffix sugar suggest suit sun supply support sure surface
surprise swim syllable symbol system tail tall teach team teeth temperature ten term thick thin
third thought thousand three throw tie tiny tire together told tone tool top total touch track
trade train travel triangle trip trouble truck true tube turn twenty type unit usual valley value
vary verb view village visit voice vowel wait walk wall warm wash watch wave weather week weight
west wheel white wide wife wild win wind wing winter wire wish wonder wood work yard yellow young
""")


def corpus() -> list[str]:
    """Generate lines of English text with digits, short answers and punctuation."""
    rng = random.Random(SEED)
    lines = (ROOT / "LICENSE").read_text(encoding="utf-8").splitlines()
    for _ in range(4000):
        sentence = " ".join(rng.choice(part) for part in (SUBJECTS, VERBS, OBJECTS, ENDINGS))
        lines.append(sentence[0].upper() + sentence[1:] + rng.choice(".....!?"))
    for _ in range(1000):
        digits = " ".join(rng.choice(string.digits) for _ in range(rng.randint(1, 8)))
        words = rng.choices(WORDS, k=8)
        lines.append(" ".join(rng.choice([word, word, word, word.capitalize()]) for word in words))
        lines.append(f"{rng.choice(INSTRUCTIONS)}: {digits}")
        lines.append(f"{rng.choice(INSTRUCTIONS)}? {rng.choice(['yes', 'no', 'Yes', 'No'])}")
    lines.append(" ".join(string.ascii_letters + string.digits + string.punctuation))
    return lines
