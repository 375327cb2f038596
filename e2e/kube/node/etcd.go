package main

import (
	"go.etcd.io/etcd/server/v3/etcdmain"
)

func init() {
	programs["etcd"] = etcdmain.Main
}
