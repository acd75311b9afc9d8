package model

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pimoe/pimoe/core/sampler"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/router"
)

// Config is what a checkpoint's config.json and generation_config.json say, checked and in one form for all
// architectures. It is immutable after reading.
type Config struct {
	ModelType string
	Vocab     int // rows of the embedding; may be more than the tokenizer has
	Hidden    int
	Layers    int
	Heads     int
	KVHeads   int
	HeadDim   int
	// Experts and TopK are 1 and 1 for a dense model: its FFNs are one always chosen expert.
	Experts      int
	TopK         int
	Intermediate int // inner width of a routed expert
	MaxPositions int // longest sequence the model takes
	EOS          []int32
	BOS          *int32
	Activation   string // as in expert.Spec: "silu" or "gelu_tanh"
	Rule         router.Rule
	Defaults     Defaults
	Tied         bool // the head is the embedding

	arch        *architecture
	sparse      []bool // by layer
	windows     []int  // by layer: how many keys a token sees, itself included; 0 = all
	denseWidth  int    // inner width of FFNs that stay in the trunk
	sharedWidth int    // inner width of the shared expert; 0 = none
	qkvBias     bool
	outBias     bool
	clip        float32 // q, k and v are cut to [-clip, clip]; 0 = not
	eps         float32
	rope        rope
	embedScale  float32
	residual    float32
	attention   float32 // factor of the scores
	logits      float32 // divisor of the logits
}

// Defaults are the sampling settings that generation_config.json proposes; nil where it says nothing.
type Defaults struct {
	Sample            *bool // do_sample
	Temperature       *float32
	TopK              *int
	TopP              *float32
	MinP              *float32
	RepetitionPenalty *float32
	MaxNewTokens      *int
}

// Params are the settings that a request without any of its own runs with, as transformers reads the file: greedy
// unless do_sample is true.
func (d Defaults) Params() sampler.Params {
	var p sampler.Params
	if d.RepetitionPenalty != nil {
		p.RepetitionPenalty = *d.RepetitionPenalty
	}
	if d.Sample == nil || !*d.Sample {
		return p
	}
	p.Temperature = 1
	if d.Temperature != nil {
		p.Temperature = *d.Temperature
	}
	if d.TopK != nil {
		p.TopK = *d.TopK
	}
	if d.TopP != nil {
		p.TopP = *d.TopP
	}
	if d.MinP != nil {
		p.MinP = *d.MinP
	}
	return p
}

// Bounds of what a config.json may ask for. They are several times what any published model has and keep every later
// product of two of them within an int.
const (
	vocabLimit        = 1 << 23
	hiddenLimit       = 1 << 17
	layersLimit       = 1 << 10
	headsLimit        = 1 << 10
	headDimLimit      = 1 << 12
	expertsLimit      = 1 << 12
	unitsLimit        = 1 << 18 // layers x experts
	widthLimit        = 1 << 20
	maxPositionsLimit = 1 << 24 // positions above are not exact in float32
	fileLimit         = 4 << 20 // bytes of a config file
)

// ReadConfig reads config.json and, if it is there, generation_config.json of a model folder. Every problem is
// reported at once.
func ReadConfig(dir string) (*Config, error) {
	config, err := readLimited(filepath.Join(dir, "config.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read %s: no config.json: %w", dir, sdk.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	generation, err := readLimited(filepath.Join(dir, "generation_config.json"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	c, err := ParseConfig(config, generation)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", dir, err)
	}
	return c, nil
}

func readLimited(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, fileLimit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(b) > fileLimit {
		return nil, fmt.Errorf("read %s: larger than %d bytes: %w", path, fileLimit, sdk.ErrInvalid)
	}
	return b, nil
}

// ParseConfig is ReadConfig over bytes; generation may be empty.
func ParseConfig(config, generation []byte) (*Config, error) {
	o, err := parseObject("config.json", config)
	if err != nil {
		return nil, err
	}
	modelType := o.text("model_type", "")
	arch := find(modelType)
	if arch == nil {
		return nil, fmt.Errorf("config.json: model_type %q is not supported (supported: %s): %w",
			modelType, strings.Join(Supported(), ", "), sdk.ErrUnsupported)
	}
	if q := o.child("quantization_config"); q != nil {
		method := q.text("quant_method", "unknown")
		return nil, fmt.Errorf("config.json: quantization_config with quant_method %q: %w", method, sdk.ErrUnsupported)
	}
	c := &Config{ModelType: modelType, arch: arch}
	c.readShape(o)
	c.readExperts(o)
	c.readAttention(o)
	c.readRest(o)
	o.rest(true)
	if err := o.err(); err != nil {
		return nil, err
	}
	return c, c.readGeneration(generation)
}

func (c *Config) readShape(o *object) {
	c.Vocab = o.integer("vocab_size", 1, vocabLimit, required)
	c.Hidden = o.integer("hidden_size", 1, hiddenLimit, required)
	c.Layers = o.integer("num_hidden_layers", 1, layersLimit, required)
	c.Heads = o.integer("num_attention_heads", 1, headsLimit, required)
	kv := required
	if c.arch.kvHeads {
		kv = c.Heads
	}
	c.KVHeads = o.integer("num_key_value_heads", 1, headsLimit, kv)
	if c.Heads%c.KVHeads != 0 {
		o.fail("num_key_value_heads", "%d heads can't share %d", c.Heads, c.KVHeads)
	}
	if o.has("head_dim") {
		c.HeadDim = o.integer("head_dim", 2, headDimLimit, required)
	} else if c.HeadDim = c.Hidden / c.Heads; c.HeadDim*c.Heads != c.Hidden || c.HeadDim > headDimLimit {
		o.fail("num_attention_heads", "hidden_size %d can't be split over %d heads, and there is no head_dim", c.Hidden, c.Heads)
	}
	if c.HeadDim%2 != 0 || c.HeadDim == 0 {
		o.fail("head_dim", "%d is odd: rotary embedding needs pairs", c.HeadDim)
		c.HeadDim = 2
	}
	c.MaxPositions = o.integer("max_position_embeddings", 1, maxPositionsLimit, required)
}

func (c *Config) readExperts(o *object) {
	a := c.arch
	c.sparse = make([]bool, c.Layers)
	for i := range c.sparse {
		c.sparse[i] = true
	}
	c.Intermediate = o.integer(a.width, 1, widthLimit, required)
	c.Rule = router.Rule{Score: a.score, Renormalise: a.renormalise.value, Scale: 1}
	if a.dense() {
		c.Experts, c.TopK = 1, 1
		return
	}
	c.Experts = o.firstInteger(a.experts, expertsLimit)
	c.TopK = o.integer("num_experts_per_tok", 1, expertsLimit, required)
	if c.TopK > c.Experts {
		o.fail("num_experts_per_tok", "%d of %d experts", c.TopK, c.Experts)
	}
	if c.Layers*c.Experts > unitsLimit {
		o.fail("num_hidden_layers", "%d layers of %d experts are more than %d units", c.Layers, c.Experts, unitsLimit)
	}
	if key := a.renormalise.key; key != "" {
		if a.renormalise.missing && !o.has(key) {
			o.fail(key, "missing, and there is no single default")
		}
		c.Rule.Renormalise = o.boolean(key, a.renormalise.value)
	}
	if a.shared {
		c.sharedWidth = o.integer("shared_expert_intermediate_size", 1, widthLimit, required)
	}
	if a.denseLayers {
		c.readDenseLayers(o)
	}
}

// firstInteger reads a count that had several names; two of them must agree.
func (o *object) firstInteger(keys []string, hi int) int {
	var key string
	for _, k := range keys {
		if !o.has(k) {
			continue
		}
		if key != "" && o.integer(k, 1, hi, required) != o.integer(key, 1, hi, required) {
			o.fail(k, "differs from %s", key)
		}
		if key == "" {
			key = k
		}
	}
	if key == "" {
		key = keys[0]
	}
	return o.integer(key, 1, hi, required)
}

// readDenseLayers: layer i is sparse when (i+1) mod decoder_sparse_step is 0 and i is not in mlp_only_layers.
func (c *Config) readDenseLayers(o *object) {
	step := o.integer("decoder_sparse_step", 1, layersLimit, 1)
	dense, _ := decode[[]int](o, "mlp_only_layers", "a list of layers")
	for _, l := range dense {
		if l < 0 {
			o.fail("mlp_only_layers", "negative layer %d", l)
		}
	}
	sparse := 0
	for i := range c.sparse {
		c.sparse[i] = (i+1)%step == 0 && !slices.Contains(dense, i)
		if c.sparse[i] {
			sparse++
		}
	}
	if sparse == 0 {
		o.fail("mlp_only_layers", "no layer is left with experts")
	}
	width := required
	if sparse == c.Layers {
		width = 0
	}
	c.denseWidth = o.integer("intermediate_size", 1, widthLimit, width)
}

func (c *Config) readAttention(o *object) {
	a := c.arch
	theta := a.theta.value
	if a.theta.missing {
		theta = required
	}
	c.rope = readRope(o, c.HeadDim, c.MaxPositions, theta)
	c.MaxPositions = max(c.MaxPositions, c.rope.reach)
	if a.qkvBias != "" {
		c.qkvBias = o.boolean(a.qkvBias, a.qkvBiasUnset)
		c.outBias = c.qkvBias && a.outBias
	}
	if a.clip && o.has("clip_qkv") {
		c.clip = float32(o.number("clip_qkv", math.SmallestNonzeroFloat32, math.MaxFloat32, required))
	}
	c.readWindows(o)
}

// readWindows finds out in which layers attention slides. use_sliding_window false leaves it off whatever the other
// keys say.
func (c *Config) readWindows(o *object) {
	c.windows = make([]int, c.Layers)
	listed := c.readLayerTypes(o)
	if c.arch.window == noWindow {
		if slices.Contains(listed, sliding) {
			o.refuse("layer_types", "this architecture has no sliding attention")
		}
		return
	}
	on := c.arch.window == allLayers || o.boolean("use_sliding_window", false)
	if c.arch.window != allLayers {
		o.has("max_window_layers")
	}
	if !on || !o.has("sliding_window") {
		o.has("sliding_window")
		if slices.Contains(listed, sliding) {
			o.refuse("layer_types", "sliding attention without a sliding_window in force")
		}
		return
	}
	window := o.integer("sliding_window", 1, math.MaxInt32, required)
	from := 0
	switch {
	case listed != nil && c.arch.window != neverWindow:
		for i, kind := range listed {
			if kind == sliding {
				c.windows[i] = window
			}
		}
		return
	case c.arch.window == lateLayers:
		from = o.integer("max_window_layers", 0, math.MaxInt32, required)
	case c.arch.window == allLayers || window >= c.MaxPositions:
	case c.arch.window == listedLayers:
		o.refuse("use_sliding_window", "without layer_types the layers depend on the version of transformers")
		return
	default:
		o.refuse("use_sliding_window", "the layers depend on the version of transformers")
		return
	}
	for i := from; i < c.Layers; i++ {
		c.windows[i] = window
	}
}

const sliding = "sliding_attention"

// readLayerTypes reads the list of attention kinds that newer files have.
func (c *Config) readLayerTypes(o *object) []string {
	kinds, ok := decode[[]string](o, "layer_types", "a list of names")
	if !ok {
		return nil
	}
	if len(kinds) != c.Layers {
		o.fail("layer_types", "%d entries for %d layers", len(kinds), c.Layers)
		return nil
	}
	for _, k := range kinds {
		if k != sliding && k != "full_attention" {
			o.refuse("layer_types", fmt.Sprintf("unknown kind %.40q", k))
			return nil
		}
	}
	return kinds
}

// activations maps the names of transformers to those of expert.Spec. The exact gelu (by erf) has no name there.
var activations = map[string]string{
	"silu": "silu", "swish": "silu",
	"gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_tanh": "gelu_tanh",
}

func (c *Config) readRest(o *object) {
	c.eps = float32(o.number("rms_norm_eps", 1e-20, 1, c.arch.eps))
	c.Tied = o.boolean("tie_word_embeddings", false)
	act := o.text("hidden_act", "silu")
	if c.Activation = activations[act]; c.Activation == "" {
		o.refuse("hidden_act", "supported are silu and the tanh forms of gelu")
	}
	for _, key := range []string{"torch_dtype", "dtype"} {
		// Each tensor's own dtype decides; this only says what most of them are.
		switch d := strings.TrimPrefix(o.text(key, "auto"), "torch."); d {
		case "float32", "float16", "bfloat16", "auto":
		default:
			o.refuse(key, "supported are float32, float16 and bfloat16")
		}
	}
	c.embedScale, c.residual, c.logits = 1, 1, 1
	c.attention = float32(1 / math.Sqrt(float64(c.HeadDim)))
	if c.arch.multipliers {
		const tiny, huge = 1e-9, 1e9
		c.embedScale = float32(o.number("embedding_multiplier", tiny, huge, required))
		c.residual = float32(o.number("residual_multiplier", tiny, huge, required))
		c.attention = float32(o.number("attention_multiplier", tiny, huge, required))
		c.logits = float32(o.number("logits_scaling", tiny, huge, required))
	}
	c.readTokens(o)
}

// readTokens adds the stop ids of one of the two files to those already there, and takes the first BOS.
func (c *Config) readTokens(o *object) {
	for _, id := range o.tokens("eos_token_id") {
		if !slices.Contains(c.EOS, id) {
			c.EOS = append(c.EOS, id)
		}
	}
	if ids := o.tokens("bos_token_id"); len(ids) > 0 && c.BOS == nil {
		c.BOS = &ids[0]
	}
}

// readGeneration reads what generation_config.json has of stop ids and sampling defaults. Its other keys steer other
// ways of generating (beams, contrastive search) and are not ours to follow.
func (c *Config) readGeneration(raw []byte) error {
	if len(raw) == 0 {
		return nil
	}
	o, err := parseObject("generation_config.json", raw)
	if err != nil {
		return err
	}
	c.readTokens(o)
	d := &c.Defaults
	if v, ok := decode[bool](o, "do_sample", "true or false"); ok {
		d.Sample = &v
	}
	single := func(key string, lo, hi float64) *float32 {
		if !o.has(key) {
			return nil
		}
		v := float32(o.number(key, lo, hi, required))
		return &v
	}
	d.Temperature = single("temperature", 0, 1000)
	d.TopP = single("top_p", 0, 1)
	d.MinP = single("min_p", 0, 1)
	d.RepetitionPenalty = single("repetition_penalty", 1e-6, 1000)
	whole := func(key string) *int {
		if !o.has(key) {
			return nil
		}
		v := max(0, o.integer(key, -1, math.MaxInt32, required)) // some files write -1 for none
		return &v
	}
	d.TopK, d.MaxNewTokens = whole("top_k"), whole("max_new_tokens")
	return o.err()
}

// SparseLayers are the layers whose FFN is routed experts, ascending. In a dense model that is every layer.
func (c *Config) SparseLayers() []int {
	var layers []int
	for i, s := range c.sparse {
		if s {
			layers = append(layers, i)
		}
	}
	return layers
}

// Dense reports whether the model has no router of its own.
func (c *Config) Dense() bool { return c.arch.dense() }
