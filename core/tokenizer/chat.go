package tokenizer

const maxTemplate = 1 << 20
