module example.com/seerattn

go 1.22
