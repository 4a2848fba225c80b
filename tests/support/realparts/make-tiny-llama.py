"""make-tiny-llama.py DIRECTORY: a Llama of two layers and random weights, with a byte-level tokenizer, for vLLM on the CPU.

It writes nonsense; what it is for is counting tokens.
"""

import sys

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

BEGIN, END, PADDING = "<s>", "</s>", "<pad>"

tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
trainer = trainers.BpeTrainer(
    vocab_size=512,
    special_tokens=[BEGIN, END, PADDING],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
)
tokenizer.train_from_iterator(
    ["a joule is a watt for a second; a token per joule is a token per second per watt. "], trainer
)
words = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END, pad_token=PADDING)
words.chat_template = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
words.save_pretrained(sys.argv[1])

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=len(words),
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=2048,
    bos_token_id=0,
    eos_token_id=1,
    pad_token_id=2,
)
LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(sys.argv[1])
