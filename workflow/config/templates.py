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
ALPACA_WITH_INPUT = """\
Below is an instruction that describes a task, paired with an input that provides further context. \
Write a response that appropriately completes the request.

### Instruction:
{instruction}

### Input:
{input}

### Response:"""
"""The same with an input."""
NAMED = {CHAT: CHAT, "plain": PLAIN, "alpaca": ALPACA}
