package openai

import (
	"encoding/base64"
	"encoding/binary"
	"math"

	"github.com/pimoe/pimoe/server/strictjson"
)

// MaxInputs is OpenAI's limit of inputs in one request for embeddings.
const MaxInputs = 2048

// EmbeddingRequest is a request of /v1/embeddings.
type EmbeddingRequest struct {
	Model      string
	Inputs     []Prompt // at least one
	Base64     bool
	Dimensions int // 0 = all
}

// DecodeEmbedding reads a body of /v1/embeddings. Errors are *strictjson.Error.
func DecodeEmbedding(body []byte) (*EmbeddingRequest, error) {
	e := &EmbeddingRequest{}
	inputs := &Request{}
	_, err := decodeBody(body, fields{
		"model": func(_ *Request, v strictjson.Value) (err error) { e.Model, err = v.Text(); return },
		"input": func(_ *Request, v strictjson.Value) error {
			if err := prompts(inputs, v); err != nil {
				return err
			}
			if len(inputs.Prompts) > MaxInputs {
				return v.Errorf("at most %d inputs", MaxInputs)
			}
			return nil
		},
		"encoding_format": func(_ *Request, v strictjson.Value) error {
			format, err := v.Text()
			if e.Base64 = format == "base64"; err == nil && !e.Base64 && format != "float" {
				err = v.Errorf("float or base64")
			}
			return err
		},
		"dimensions": func(_ *Request, v strictjson.Value) error {
			n, err := v.Int(1, math.MaxInt32)
			e.Dimensions = int(n)
			return err
		},
		"user": text,
	}, "model", "input")
	e.Inputs = inputs.Prompts
	return e, err
}

type embedding struct {
	Object    string `json:"object"`
	Index     int    `json:"index"`
	Embedding any    `json:"embedding"` // floats, or base64 of little-endian float32
}

// Embeddings is the body of /v1/embeddings.
func (e *EmbeddingRequest) Embeddings(vectors [][]float32, tokens int, m *Meta) []byte {
	data := make([]embedding, len(vectors))
	for i, v := range vectors {
		data[i] = embedding{Object: "embedding", Index: i, Embedding: v}
		if e.Base64 {
			data[i].Embedding = base64Of(v)
		}
	}
	type cost struct {
		PromptTokens int `json:"prompt_tokens"`
		TotalTokens  int `json:"total_tokens"`
	}
	return marshal(struct {
		Object string      `json:"object"`
		Data   []embedding `json:"data"`
		Model  string      `json:"model"`
		Usage  cost        `json:"usage"`
		Meta   *Meta       `json:"meta"`
	}{"list", data, e.Model, cost{tokens, tokens}, m})
}

func base64Of(v []float32) string {
	b := make([]byte, 0, 4*len(v))
	for _, f := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(f))
	}
	return base64.StdEncoding.EncodeToString(b)
}
