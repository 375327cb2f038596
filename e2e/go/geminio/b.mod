module frontier/e2e/geminio

go 1.26

require (
	github.com/jumboframes/armorigo v0.2.5
	github.com/singchia/geminio v1.2.2-rc.2
)

require (
	github.com/singchia/go-timer/v2 v2.2.1 // indirect
	github.com/singchia/yafsm v1.0.1 // indirect
)
