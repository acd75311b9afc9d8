module github.com/pimoe/pimoe/backends/cpu/internal/kernel/_asm

go 1.26.0
