module github.com/pimoe/pimoe/scripts/mutate

go 1.26.0
