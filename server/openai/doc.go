// Package openai is the wire format of the OpenAI-compatible routes: it decodes the bodies of /v1/completions and
// /v1/chat/completions and shapes the answers, whole and as stream events.
//
// package server uses it. It is a function of values: it knows no HTTP, tokenizer or engine. It takes every field that
// OpenAI documents, but one that would have no effect here only at a value that is honoured by doing nothing; any
// other value, and any other field, is refused by name. Beyond OpenAI's fields there are top_k, min_p,
// repetition_penalty, ignore_eos and chat_template_kwargs.
package openai
