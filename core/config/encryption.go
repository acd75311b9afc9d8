package config

// Encryption is how records at rest are sealed: jobs, kept answers, whatever holds requests or answers of tenants.
type Encryption struct {
	// KeyFile has keys as lines ID:BASE64, the first of which seals while all open; others must not be able to read it.
	// Empty (default) = records are kept as they are.
	KeyFile string `koanf:"key_file"`
}
