module github.com/pimoe/pimoe/scripts/testreport

go 1.26.0
