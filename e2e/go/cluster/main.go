// Clusterpeer is a service of a Go program in a cluster, as NewClusterService makes one: it asks the registry by gRPC which gateways there
// are, again and again, connects to each of them, and finds the gateway of an edge by asking.
//
// Arguments: the registry's address and the seconds between two polls. Lines of the input are calls: an edge, a method and a text. Each is
// answered by a line. The end of the input ends the program.
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/singchia/geminio"
	"github.com/singchia/geminio/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/reflect/protoreflect"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("clusterpeer: ")
	if err := run(os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return errors.New("clusterpeer REGISTRY SECONDS")
	}
	seconds, err := strconv.ParseFloat(args[1], 64)
	if err != nil {
		return err
	}
	cluster, err := newCluster(args[0])
	if err != nil {
		return err
	}
	defer cluster.registry.Close()
	if err := cluster.poll(); err != nil {
		return err
	}
	go func() {
		for range time.Tick(time.Duration(seconds * float64(time.Second))) {
			// As the SDK does: what could not be asked is asked the next time.
			if err := cluster.poll(); err != nil {
				log.Print(err)
			}
		}
	}()
	input := bufio.NewScanner(os.Stdin)
	for input.Scan() {
		words := strings.SplitN(input.Text(), " ", 3)
		edge, err := strconv.ParseUint(words[0], 10, 64)
		if err != nil || len(words) != 3 {
			return fmt.Errorf("not a call: %q", input.Text())
		}
		answer, err := cluster.call(edge, words[1], words[2])
		if err != nil {
			cluster.say("failed", edge, err)
			continue
		}
		cluster.say("answer", edge, answer)
	}
	return input.Err()
}

// cluster is a service at every gateway.
type cluster struct {
	registry *grpc.ClientConn
	messages *messages

	sync.Mutex
	gateways map[frontier]geminio.End
	output   sync.Mutex
}

func newCluster(registry string) (*cluster, error) {
	messages, err := describe()
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(registry, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	return &cluster{registry: conn, messages: messages, gateways: make(map[frontier]geminio.End)}, nil
}

func (c *cluster) say(words ...any) {
	c.output.Lock()
	defer c.output.Unlock()
	fmt.Println(words...)
}

// poll connects to gateways that are new, and leaves those that are gone.
func (c *cluster) poll() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	response := newMessage(c.messages.listResponse)
	if err := c.registry.Invoke(ctx, listFrontiers, newMessage(c.messages.listRequest), response); err != nil {
		return err
	}
	list := response.Get(c.messages.listResponse.Fields().ByNumber(2)).List()
	listed := make(map[frontier]bool)
	for i := range list.Len() {
		listed[readFrontier(list.Get(i).Message())] = true
	}
	c.Lock()
	defer c.Unlock()
	for gateway, end := range c.gateways {
		if !listed[gateway] {
			end.Close()
			delete(c.gateways, gateway)
			c.say("left", gateway.id)
		}
	}
	for gateway := range listed {
		if _, there := c.gateways[gateway]; there {
			continue
		}
		end, err := connect(gateway.services)
		if err != nil {
			log.Printf("gateway %s: %v", gateway.id, err)
			continue
		}
		c.gateways[gateway] = end
		c.say("joined", gateway.id)
	}
	return nil
}

func connect(address string) (geminio.End, error) {
	meta, err := json.Marshal(struct {
		Service string   `json:"service"`
		Topics  []string `json:"topics"`
	}{"clusterpeer", nil})
	if err != nil {
		return nil, err
	}
	opts := client.NewEndOptions()
	opts.SetMeta(meta)
	return client.NewEndWithDialer(func() (net.Conn, error) { return net.DialTimeout("tcp", address, 5*time.Second) }, opts)
}

// call finds the gateway of an edge and calls through it.
func (c *cluster) call(edge uint64, method, text string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	request, response := newMessage(c.messages.byEdgeRequest), newMessage(c.messages.byEdgeResponse)
	request.Set(c.messages.byEdgeRequest.Fields().ByNumber(1), protoreflect.ValueOfUint64(edge))
	if err := c.registry.Invoke(ctx, getFrontierByEdge, request, response); err != nil {
		return "", err
	}
	place := readFrontier(response.Get(c.messages.byEdgeResponse.Fields().ByNumber(1)).Message())
	c.Lock()
	end, there := c.gateways[place]
	c.Unlock()
	if !there {
		return "", fmt.Errorf("not connected to gateway %s", place.id)
	}
	call := end.NewRequest([]byte(text))
	call.SetCustom(binary.BigEndian.AppendUint64(nil, edge))
	answer, err := end.Call(ctx, method, call)
	if err != nil {
		// The connection is given up with the first error, and made anew with the next poll.
		c.Lock()
		if c.gateways[place] == end && errors.Is(err, net.ErrClosed) {
			delete(c.gateways, place)
		}
		c.Unlock()
		return "", err
	}
	if err := answer.Error(); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s by %s", answer.Data(), place.id), nil
}
