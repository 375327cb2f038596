package main

import (
	"context"
	"encoding/binary"
	"flag"
	"io"
	"log"
	"net"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/clientcmd"
)

// Answers for Services, with a cluster IP and headless: what the tests use of the DNS of Kubernetes.
func init() { programs["cluster-dns"] = clusterDNS }

type dnsServer struct {
	zone string
	svc  corelisters.ServiceLister
	eps  discoverylisters.EndpointSliceLister
}

func clusterDNS(args []string) {
	fs := flag.NewFlagSet("cluster-dns", flag.ExitOnError)
	kc := fs.String("kubeconfig", "", "")
	addr := fs.String("listen", "127.0.0.1:53", "")
	zone := fs.String("zone", "cluster.local", "")
	fs.Parse(args[1:])
	cfg, err := clientcmd.BuildConfigFromFlags("", *kc)
	if err != nil {
		log.Fatal(err)
	}
	f := informers.NewSharedInformerFactory(kubernetes.NewForConfigOrDie(cfg), time.Hour)
	s := &dnsServer{"." + *zone + ".", f.Core().V1().Services().Lister(), f.Discovery().V1().EndpointSlices().Lister()}
	f.Start(context.Background().Done())
	f.WaitForCacheSync(context.Background().Done())
	pc, err := net.ListenPacket("udp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				log.Fatal(err)
			}
			go func() {
				defer c.Close()
				for {
					c.SetDeadline(time.Now().Add(10 * time.Second))
					var n uint16
					if binary.Read(c, binary.BigEndian, &n) != nil {
						return
					}
					b := make([]byte, n)
					if _, err := io.ReadFull(c, b); err != nil {
						return
					}
					r := s.answer(b)
					if r == nil {
						return
					}
					c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(r))), r...))
				}
			}()
		}
	}()
	log.Printf("serving %s on %s", *zone, *addr)
	b := make([]byte, 4096)
	for {
		n, from, err := pc.ReadFrom(b)
		if err != nil {
			log.Fatal(err)
		}
		if r := s.answer(b[:n]); r != nil {
			pc.WriteTo(r, from)
		}
	}
}

func (s *dnsServer) answer(req []byte) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(req)
	if err != nil || h.Response {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	ips, found := s.lookup(strings.ToLower(q.Name.String()))
	rh := dnsmessage.Header{ID: h.ID, Response: true, Authoritative: true, OpCode: h.OpCode, RecursionDesired: h.RecursionDesired, RecursionAvailable: true}
	if !found {
		rh.RCode = dnsmessage.RCodeNameError
	}
	bld := dnsmessage.NewBuilder(nil, rh)
	bld.EnableCompression()
	bld.StartQuestions()
	bld.Question(q)
	bld.StartAnswers()
	for _, ip := range ips {
		v4, v6 := ip.To4(), ip.To16()
		rr := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 1}
		if v4 != nil && q.Type == dnsmessage.TypeA {
			bld.AResource(rr, dnsmessage.AResource{A: [4]byte(v4)})
		} else if v4 == nil && q.Type == dnsmessage.TypeAAAA {
			bld.AAAAResource(rr, dnsmessage.AAAAResource{AAAA: [16]byte(v6)})
		}
	}
	out, err := bld.Finish()
	if err != nil {
		return nil
	}
	return out
}

// lookup answers [hostname.]service.namespace.svc.<zone>
func (s *dnsServer) lookup(name string) ([]net.IP, bool) {
	rest, ok := strings.CutSuffix(name, ".svc"+s.zone)
	if !ok {
		return nil, false
	}
	l := strings.Split(rest, ".")
	if len(l) < 2 || len(l) > 3 {
		return nil, false
	}
	ns, sn := l[len(l)-1], l[len(l)-2]
	svc, err := s.svc.Services(ns).Get(sn)
	if err != nil {
		return nil, false
	}
	if svc.Spec.ClusterIP != corev1.ClusterIPNone && len(l) == 2 {
		return []net.IP{net.ParseIP(svc.Spec.ClusterIP)}, true
	}
	sl, _ := s.eps.EndpointSlices(ns).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: sn}))
	var ips []net.IP
	found := len(l) == 2
	for _, e := range sl {
		for _, ep := range e.Endpoints {
			if ep.Conditions.Ready != nil && !*ep.Conditions.Ready && !svc.Spec.PublishNotReadyAddresses {
				continue
			}
			if len(l) == 3 && (ep.Hostname == nil || *ep.Hostname != l[0]) {
				continue
			}
			for _, a := range ep.Addresses {
				found = true
				ips = append(ips, net.ParseIP(a))
			}
		}
	}
	return ips, found
}
