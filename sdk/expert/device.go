package expert

// Device is what computes for an expert process beside the machine's processors, such as a GPU, and what it has done for the
// process since that started. The seconds are the device's own: of work that overlaps each piece counts.
type Device struct {
	ID              string  `json:"id"`                // as an operator names it, such as "0": letters, digits and : . _ -
	Name            string  `json:"name"`              // for people
	MemoryBytes     int64   `json:"memory_bytes"`      // of the device
	UsedBytes       int64   `json:"memory_used_bytes"` // of them, by whomever
	WeightBytes     int64   `json:"weight_bytes"`      // of them, by this process's weights
	KernelSeconds   float64 `json:"kernel_seconds"`
	UploadSeconds   float64 `json:"upload_seconds"`
	DownloadSeconds float64 `json:"download_seconds"`
	UploadBytes     int64   `json:"upload_bytes"` // of calls
	DownloadBytes   int64   `json:"download_bytes"`
	// Staged is why rows are copied once more between the shared memory and the device; empty = they are not.
	Staged string `json:"staged,omitempty"`
}
