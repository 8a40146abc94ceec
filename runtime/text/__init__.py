"""From text to token ids and back: tokenizer, detokenizer, stop strings, chat template."""
