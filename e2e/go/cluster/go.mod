module frontier/e2e/cluster

go 1.26

require (
	github.com/singchia/geminio v1.3.0-rc.2
	google.golang.org/grpc v1.72.1
	google.golang.org/protobuf v1.36.5
)

require (
	github.com/jumboframes/armorigo v0.2.5 // indirect
	github.com/singchia/go-timer/v2 v2.2.2 // indirect
	github.com/singchia/yafsm v1.0.1 // indirect
	golang.org/x/net v0.35.0 // indirect
	golang.org/x/sys v0.38.0 // indirect
	golang.org/x/text v0.22.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20250218202821-56aae31c358a // indirect
)
