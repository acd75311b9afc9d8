module github.com/pimoe/pimoe/backends/int8/internal/kernel/_asm

go 1.26.0
