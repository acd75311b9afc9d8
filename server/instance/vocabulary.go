package instance

import "github.com/pimoe/pimoe/core/grammar"

// Texts is what tokens write, as a tokenizer tells it.
type Texts interface {
	Size() int
	Writes(id int32) (behind, first []byte)
}

// VocabularyOf is what the tokens of a model write, for the forms of answers. eos are those that end a text.
func VocabularyOf(t Texts, vocab int, eos []int32) (*grammar.Vocabulary, error) {
	size := min(vocab, t.Size())
	var lead []int32
	for id := range int32(size) {
		if behind, first := t.Writes(id); string(behind) != string(first) {
			lead = append(lead, id)
		}
	}
	return grammar.NewVocabulary(size, func(id int32) []byte { b, _ := t.Writes(id); return b }, eos, lead)
}
