"""Prompts and completions as ids: read apart, or one behind the other."""

from typing import Any

import pytest
from conftest import BERT_TINY, GPT_TINY, T5_TINY
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from workflow.config.templates import ALPACA, CHAT, PLAIN
from workflow.data.text_format import ContinuedText, SeparateTexts, continuation_ids, render

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def gpt() -> Any:
    return AutoTokenizer.from_pretrained(GPT_TINY)


@pytest.fixture
def chat(gpt: Any) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(GPT_TINY)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture(scope="module")
def llama() -> Any:
    """A tokenizer like Llama's: a space before every text, and a bos token."""
    words = ["<unk>", "<s>", "</s>", "▁", "a", "b", "c", "▁a", "▁b", "ab", "▁ab", "\n", ":", "bc"]
    merges = [("▁", "a"), ("▁", "b"), ("a", "b"), ("▁a", "b"), ("b", "c")]
    model = models.BPE({word: i for i, word in enumerate(words)}, merges, unk_token="<unk>")
    backend = Tokenizer(model)
    backend.normalizer = normalizers.Sequence([
        normalizers.Prepend("▁"), normalizers.Replace(" ", "▁"),
    ])  # fmt: skip
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def test_a_completion_follows_its_prompt_with_a_space(gpt: Any) -> None:
    format = ContinuedText.of(gpt, PLAIN)
    for prompt, completion, joined in (
        ("add one:", "1 2", " 1 2"), ("add one: ", "1 2", "1 2"), ("add one:\n", "1 2", "1 2"),
        ("add one:", " 1 2", " 1 2"), ("add one:", "\n1", "\n1"), ("", "1 2", " 1 2"),
    ):  # fmt: skip
        (target,) = format.targets(gpt, [prompt], [completion])
        assert target[-1] == gpt.eos_token_id
        assert gpt.decode(target[:-1]) == joined
    assert format.targets(gpt, ["a"], [""]) == [[gpt.eos_token_id]]


def test_no_token_spans_prompt_and_completion(gpt: Any) -> None:
    """Together, "dif" and "ferent" may be one token, which no prompt for generation ends with."""
    format = ContinuedText.of(gpt, "{input}")
    (source,) = format.sources(gpt, ["the dif"])
    assert source == gpt("the dif")["input_ids"]
    assert continuation_ids(gpt, ["ferent"]) == [gpt("ferent")["input_ids"]]


def test_the_space_that_a_tokenizer_adds_at_the_start_is_not_part_of_a_continuation(
    llama: Any,
) -> None:
    assert llama("ab", add_special_tokens=False)["input_ids"] == llama.convert_tokens_to_ids(
        ["▁ab"]
    )
    pieces = [
        llama.convert_ids_to_tokens(row) for row in continuation_ids(llama, ["ab", " ab", "bc"])
    ]
    assert pieces == [["ab"], ["▁ab"], ["bc"]]
    assert continuation_ids(llama, ["", "\nab"])[0] == []
    assert llama.convert_ids_to_tokens(continuation_ids(llama, ["\nab"])[0]) == ["\n", "ab"]


def test_prompts_have_the_bos_token_of_their_tokenizer_once(gpt: Any, llama: Any) -> None:
    assert ContinuedText.of(gpt, PLAIN).sources(gpt, ["one"]) == [gpt("one")["input_ids"]]
    # A model without a bos token starts an empty prompt with its end token.
    assert ContinuedText.of(gpt, PLAIN).sources(gpt, [""]) == [[gpt.eos_token_id]]
    with_bos = PreTrainedTokenizerFast(
        tokenizer_object=llama.backend_tokenizer, bos_token="<s>", eos_token="</s>"
    )
    from tokenizers.processors import TemplateProcessing

    with_bos.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    (source,) = ContinuedText.of(with_bos, PLAIN).sources(with_bos, ["ab"])
    assert source == with_bos("ab")["input_ids"] and source.count(1) == 1
    with_bos.chat_template = "<s>{% for m in messages %}{{ m.content }}{% endfor %}"
    (source,) = ContinuedText.of(with_bos, CHAT).sources(with_bos, ["ab"])
    assert source.count(1) == 1


def test_a_chat_template_surrounds_prompts_and_ends_answers(chat: Any) -> None:
    format = ContinuedText.of(chat, CHAT)
    assert format.end == chat.convert_tokens_to_ids("<|im_end|>") != chat.eos_token_id
    (source,) = format.sources(chat, ["add one"])
    messages = [{"role": "user", "content": "add one"}]
    text = chat.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert chat.decode(source) == text == render(chat, CHAT, "add one")
    (target,) = format.targets(chat, ["add one"], ["1 2"])
    whole = chat.apply_chat_template(
        [*messages, {"role": "assistant", "content": "1 2"}], tokenize=False
    )
    assert chat.decode(source + target) == whole.rstrip("\n")
    # Truncation keeps what surrounds a prompt.
    before, after = format.frames(chat)["source"]
    assert chat.decode(source[:before]) == "<|im_start|>user\n"
    assert chat.decode(source[len(source) - after :]) == "<|im_end|>\n<|im_start|>assistant\n"


def test_words_have_the_form_that_the_prompt_asks_for(gpt: Any, chat: Any) -> None:
    plain, alpaca = ContinuedText.of(gpt, PLAIN), ContinuedText.of(gpt, ALPACA)
    assert gpt.convert_ids_to_tokens(plain.word_ids(gpt, "yes")) == ["Ġyes"]
    assert gpt.convert_ids_to_tokens(plain.word_ids(gpt, "yes", "is it?\n")) == ["yes"]
    assert gpt.convert_ids_to_tokens(alpaca.word_ids(gpt, "yes")) == ["yes"]
    assert chat.convert_ids_to_tokens(ContinuedText.of(chat, CHAT).word_ids(chat, "yes")) == ["yes"]
    t5 = AutoTokenizer.from_pretrained(T5_TINY)
    assert t5.convert_ids_to_tokens(SeparateTexts(0).word_ids(t5, "yes")) == ["▁yes"]


def test_an_encoder_reads_a_text_between_its_special_tokens() -> None:
    tokenizer = AutoTokenizer.from_pretrained(BERT_TINY)
    format = SeparateTexts(None)
    (source,) = format.sources(tokenizer, ["add one"])
    assert tokenizer.convert_ids_to_tokens(source)[0] == "[CLS]"
    assert tokenizer.convert_ids_to_tokens(source)[-1] == "[SEP]"
    assert format.frames(tokenizer)["source"] == (1, 1)
    assert not format.writes
