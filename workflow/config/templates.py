"""Templates of prompts: texts with {input}, some of which have names."""

CHAT = "chat"
"""Stands for the chat template of the model's tokenizer."""
PLAIN = "{input}"
ALPACA = """\
Below is an instruction that describes a task. Write a response that appropriately completes the \
request.

### Instruction:
{input}

### Response:"""
"""Stanford Alpaca's prompt without an input (github.com/tatsu-lab/stanford_alpaca)."""
NAMED = {CHAT: CHAT, "plain": PLAIN, "alpaca": ALPACA}
