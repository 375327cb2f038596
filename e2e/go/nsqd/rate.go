// Command rate prints how many messages a second go-nsq publishes with so many under way: rate ADDRESS SIZE WINDOW MILLISECONDS
package main

import (
	"bytes"
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/nsqio/go-nsq"
)

func main() {
	if len(os.Args) != 5 {
		log.Fatal("rate ADDRESS SIZE WINDOW MILLISECONDS")
	}
	number := func(index int) int {
		value, err := strconv.Atoi(os.Args[index])
		if err != nil {
			log.Fatal(err)
		}
		return value
	}
	body, window := bytes.Repeat([]byte("x"), number(2)), number(3)
	length := time.Duration(number(4)) * time.Millisecond
	producer, err := nsq.NewProducer(os.Args[1], nsq.NewConfig())
	if err != nil {
		log.Fatal(err)
	}
	producer.SetLoggerLevel(nsq.LogLevelError)
	if err := producer.Ping(); err != nil {
		log.Fatal(err)
	}
	done := make(chan *nsq.ProducerTransaction, window)
	start, given, confirmed := time.Now(), 0, 0
	for time.Since(start) < length || confirmed < given {
		for given < confirmed+window && time.Since(start) < length {
			if err := producer.PublishAsync("t#ephemeral", body, done); err != nil {
				log.Fatal(err)
			}
			given++
		}
		if transaction := <-done; transaction.Error != nil {
			log.Fatal(transaction.Error)
		}
		confirmed++
	}
	fmt.Printf("%.0f\n", float64(confirmed)/time.Since(start).Seconds())
}
