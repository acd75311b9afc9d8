package kernel

// Tiles of rows x panels: vnniRxP with AVX512_VNNI, fenced or not, avx2xR of one panel with AVX2 and FMA. Each does what runGeneric
// does for its shape.

//go:noescape
func vnni1x1(t *Tile)

//go:noescape
func vnni1x1fenced(t *Tile)

//go:noescape
func vnni1x2(t *Tile)

//go:noescape
func vnni2x1(t *Tile)

//go:noescape
func vnni2x1fenced(t *Tile)

//go:noescape
func vnni2x2(t *Tile)

//go:noescape
func vnni3x1(t *Tile)

//go:noescape
func vnni3x1fenced(t *Tile)

//go:noescape
func vnni3x2(t *Tile)

//go:noescape
func vnni4x1(t *Tile)

//go:noescape
func vnni4x2(t *Tile)

//go:noescape
func vnni5x1(t *Tile)

//go:noescape
func vnni5x2(t *Tile)

//go:noescape
func vnni6x1(t *Tile)

//go:noescape
func vnni6x2(t *Tile)

//go:noescape
func vnni7x1(t *Tile)

//go:noescape
func vnni8x1(t *Tile)

//go:noescape
func avx2x1(t *Tile)

//go:noescape
func avx2x2(t *Tile)

//go:noescape
func avx2x3(t *Tile)

//go:noescape
func avx2x4(t *Tile)

// quantizeAVX2 is quantizeGeneric.
//
//go:noescape
func quantizeAVX2(q *int8, groups *Group, x *float32, blocks int)
