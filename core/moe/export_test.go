package moe

// DealFrom has the layer deal calls of so many values and more.
func (l *Layer) DealFrom(values int) *Layer {
	l.dealFrom = values
	return l
}
