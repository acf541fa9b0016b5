// The script of README.md with grpc-go.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

type raw struct{}

func (raw) Marshal(v interface{}) ([]byte, error) { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v interface{}) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}
func (raw) Name() string { return "proto" }

func field(number int, text string) []byte {
	return append([]byte{byte(number*8 + 2), byte(len(text))}, text...)
}

func main() {
	conn, err := grpc.Dial(os.Args[1], grpc.WithInsecure(),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{}), grpc.MaxCallSendMsgSize(1<<30)))
	if err != nil {
		panic(err)
	}
	unary := func(path string, body []byte, patience time.Duration) int {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		var reply []byte
		return int(status.Code(conn.Invoke(ctx, path, &body, &reply)))
	}
	ctx, cancel := context.WithCancel(context.Background())
	quiet, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/ordinal.v1.Feed/Subscribe")
	if err != nil {
		panic(err)
	}
	request := field(1, "quiet")
	quiet.SendMsg(&request)
	quiet.CloseSend()
	out := map[string]interface{}{}
	calls, late := 0, map[int]int{}
	for i := 0; i < 400; i++ {
		if unary("/ordinal.v1.Ids/Next", field(1, "a"), time.Minute) == 0 {
			calls++
		}
	}
	out["calls"] = calls
	for round := 0; round < 4; round++ {
		var group sync.WaitGroup
		ends := make(chan int, 50)
		for i := 0; i < 50; i++ {
			group.Add(1)
			go func() {
				ends <- unary("/ordinal.v1.Ids/Next", append(field(1, "slow"), 0x10, 0xa0, 0x1f), 200*time.Millisecond)
				group.Done()
			}()
		}
		group.Wait()
		close(ends)
		for code := range ends {
			late[code]++
		}
	}
	out["late"] = late
	take, err := conn.NewStream(context.Background(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/ordinal.v1.Ids/Take")
	if err != nil {
		panic(err)
	}
	for i := 0; i < 3; i++ {
		request := field(1, "a")
		take.SendMsg(&request)
	}
	take.CloseSend()
	replies := 0
	for {
		var reply []byte
		if err = take.RecvMsg(&reply); err != nil {
			break
		}
		replies++
	}
	code := int(status.Code(err))
	if err.Error() == "EOF" {
		code = 0
	}
	out["take"] = map[string]int{"replies": replies, "code": code}
	out["unknown"] = unary("/ordinal.v1.Ids/Nothing", nil, time.Minute)
	out["large"] = unary("/ordinal.v1.Ids/Next", append([]byte{0x7a, 0x80, 0x80, 0xc0, 0x02}, make([]byte, 5<<20)...), time.Minute)
	unary("/ordinal.v1.Feed/Publish", append(field(1, "quiet"), field(3, "payload")...), time.Minute)
	for {
		var frame []byte
		if err := quiet.RecvMsg(&frame); err != nil {
			out["frames"] = []string{err.Error()}
			break
		}
		if bytes.Contains(frame, []byte("payload")) {
			out["frames"] = []string{"payload"}
			break
		}
	}
	cancel()
	line, _ := json.Marshal(out)
	fmt.Println(string(line))
}
