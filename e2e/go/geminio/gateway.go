package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"

	"github.com/singchia/geminio"
	"github.com/singchia/geminio/client"
	"github.com/singchia/geminio/delegate"
)

// reporter tells of a gateway's connection to its registry.
type reporter struct {
	*delegate.UnimplementedDelegate
	sync.Mutex
}

func (r *reporter) say(words ...any) {
	r.Lock()
	defer r.Unlock()
	fmt.Println(words...)
}

func (r *reporter) ConnOffline(delegate.ConnDescriber) error {
	r.say("registry lost")
	return nil
}

func (r *reporter) EndReOnline(delegate.ClientDescriber) {
	r.say("registry found")
}

func (r *reporter) RemoteRegistration(method string, _, _ uint64) {
	r.say("offered", method)
}

// gateway reports to a registry as a gateway of the Go system does: a geminio client that connects again whenever it is lost, its name and
// addresses as meta, calls with JSON and without a timeout. Arguments: the registry's address, the name, the addresses for services and
// edges; if the registry speaks TLS, files with the authority of its certificate, and with our own certificate and key. Lines of the input are calls: a method, a space and
// the JSON without the name. Each is answered by a line. The end of the input, or a line `close`, closes the connection in good order.
func gateway(args []string) error {
	if len(args) < 4 {
		return errors.New("gateway ADDRESS NAME SERVICES EDGES [CA [CERT KEY]]")
	}
	address, name := args[0], args[1]
	meta, err := json.Marshal(struct {
		FrontierID string `json:"frontier_id"`
		Services   string `json:"advertised_servicebound_addr"`
		Edges      string `json:"advertised_edgebound_addr"`
	}{name, args[2], args[3]})
	if err != nil {
		return err
	}
	dial := func() (net.Conn, error) { return net.Dial("tcp", address) }
	if len(args) > 4 {
		pem, err := os.ReadFile(args[4])
		if err != nil {
			return err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		config := &tls.Config{RootCAs: roots, ServerName: "gateway.example"}
		if len(args) > 6 {
			own, err := tls.LoadX509KeyPair(args[5], args[6])
			if err != nil {
				return err
			}
			config.Certificates = []tls.Certificate{own}
		}
		dial = func() (net.Conn, error) { return tls.Dial("tcp", address, config) }
	}
	report := &reporter{UnimplementedDelegate: &delegate.UnimplementedDelegate{}}
	opts := client.NewEndOptions()
	opts.SetMeta(meta)
	opts.SetDelegate(report)
	end, err := client.NewRetryEndWithDialer(dial, opts)
	if err != nil {
		return err
	}
	report.say("connected")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		method, data, _ := strings.Cut(lines.Text(), " ")
		if method == "close" {
			break
		}
		report.say(call(end, name, method, data))
	}
	err = end.Close()
	report.say("closed")
	return err
}

func call(end geminio.End, name, method, data string) string {
	value := map[string]any{}
	numbers := json.NewDecoder(strings.NewReader(data))
	numbers.UseNumber()
	if err := numbers.Decode(&value); err != nil {
		return fmt.Sprintf("input: %v", err)
	}
	value["frontier_id"] = name
	body, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprintf("input: %v", err)
	}
	rsp, err := end.Call(context.TODO(), method, end.NewRequest(body))
	if err == nil {
		err = rsp.Error()
	}
	if err != nil {
		return fmt.Sprintf("%s failed: %v", method, err)
	}
	return fmt.Sprintf("%s done %q", method, rsp.Data())
}
