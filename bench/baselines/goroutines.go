// The usual way in Go: one goroutine per follower, math/big decimals, crypto/hmac, one write per order.
//
// Standard library only, nothing of copyd. Followers, keys, orders and the lines on stdin and stdout are those of
// bench/floor/floor.c; first line on stdout when ready, then one line of JSON per line "go".
//
//	go run goroutines.go -port P -followers N -connections C [-seed S] [-fixed]
//
// -fixed sizes with 64-bit fixed point instead of math/big.
package main

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"math/big"
	"math/rand"
	"net"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

type follower struct {
	account    int
	apiKey     string
	secret     []byte
	allocation *big.Rat
	available  *big.Rat
	held       *big.Rat
	heldLots   int64
	units      int64 // the allocation in whole units of the quote
	openOrders int
	paused     bool
}

type event struct {
	number  int
	side    int
	closing bool
	ticks   int64
}

// A connection takes one frame at a time.
type connection struct {
	mutex  sync.Mutex
	socket net.Conn
}

var (
	start     = time.Now()
	sides     = [4]int{1, -1, -1, 1}
	leaderQty = big.NewRat(1, 2)
	equity    = big.NewRat(100000, 1)
	lot       = big.NewRat(1, 1000)
	minimum   = big.NewRat(50, 1)
	leverage  = big.NewRat(10, 1)
	fixed     = flag.Bool("fixed", false, "64-bit fixed point instead of math/big")
)

type params struct {
	Symbol           string `json:"symbol"`
	Side             string `json:"side"`
	Type             string `json:"type"`
	TimeInForce      string `json:"timeInForce,omitempty"`
	Quantity         string `json:"quantity"`
	Price            string `json:"price,omitempty"`
	ReduceOnly       string `json:"reduceOnly,omitempty"`
	NewClientOrderID string `json:"newClientOrderId"`
	NewOrderRespType string `json:"newOrderRespType"`
	APIKey           string `json:"apiKey"`
	Timestamp        int64  `json:"timestamp"`
	RecvWindow       int    `json:"recvWindow"`
	Signature        string `json:"signature"`
}

type request struct {
	ID     string `json:"id"`
	Method string `json:"method"`
	Params params `json:"params"`
}

func shortest(text string) string {
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text
}

// Lots to buy or sell; 0 when a check refuses.
func (f *follower) size(e *event) int64 {
	if f.paused || f.openOrders >= 10 {
		return 0
	}
	if *fixed {
		if e.closing {
			return f.heldLots
		}
		lots := 500 * f.units / 100000
		notional := lots * e.ticks / 10 // thousandths of the quote
		if lots < 1 || lots > 120000 || notional < 50*1000 || notional/10 > 100000*1000 {
			return 0
		}
		return lots
	}
	qty := new(big.Rat).Set(f.held)
	if !e.closing {
		qty.Mul(leaderQty, f.allocation)
		qty.Quo(qty, equity)
	}
	scaled := new(big.Rat).Quo(qty, lot)
	lots := new(big.Int).Quo(scaled.Num(), scaled.Denom()).Int64()
	rounded := new(big.Rat).Mul(big.NewRat(lots, 1), lot)
	notional := new(big.Rat).Mul(rounded, big.NewRat(e.ticks, 10))
	if lots < 1 || lots > 120000 {
		return 0
	}
	if !e.closing && (notional.Cmp(minimum) < 0 || new(big.Rat).Quo(notional, leverage).Cmp(f.available) > 0) {
		return 0
	}
	if e.closing {
		f.held.Sub(f.held, rounded)
	} else {
		f.held.Add(f.held, rounded)
	}
	return lots
}

func (f *follower) order(e *event) []byte {
	lots := f.size(e)
	if lots == 0 {
		return nil
	}
	if e.closing {
		f.heldLots -= lots
	} else {
		f.heldLots += lots
	}
	cid := fmt.Sprintf("be7c0000%08x%08x%08x", e.number, f.account, uint32(f.account)*2654435761)
	p := params{
		Symbol: "BTCUSDT", Side: "BUY", Quantity: shortest(big.NewRat(lots, 1000).FloatString(3)), NewClientOrderID: cid,
		NewOrderRespType: "RESULT", APIKey: f.apiKey, Timestamp: time.Now().UnixNano() / 1000000, RecvWindow: 2000,
	}
	if e.side < 0 {
		p.Side = "SELL"
	}
	if e.closing {
		p.Type, p.ReduceOnly = "MARKET", "true"
	} else {
		p.Type, p.TimeInForce = "LIMIT", "IOC"
		limit := e.ticks + int64(e.side)*e.ticks*50/10000
		p.Price = shortest(big.NewRat(limit, 10).FloatString(1))
	}
	values := map[string]string{
		"symbol": p.Symbol, "side": p.Side, "type": p.Type, "quantity": p.Quantity, "newClientOrderId": cid,
		"newOrderRespType": p.NewOrderRespType, "apiKey": p.APIKey, "timestamp": strconv.FormatInt(p.Timestamp, 10),
		"recvWindow": strconv.Itoa(p.RecvWindow),
	}
	if p.TimeInForce != "" {
		values["timeInForce"], values["price"] = p.TimeInForce, p.Price
	}
	if p.ReduceOnly != "" {
		values["reduceOnly"] = p.ReduceOnly
	}
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	sort.Strings(names)
	parts := make([]string, 0, len(values))
	for _, name := range names {
		parts = append(parts, name+"="+values[name])
	}
	mac := hmac.New(sha256.New, f.secret)
	mac.Write([]byte(strings.Join(parts, "&")))
	p.Signature = hex.EncodeToString(mac.Sum(nil))
	text, err := json.Marshal(request{cid, "order.place", p})
	if err != nil {
		fail(err)
	}
	return text
}

// One masked text frame of 126 to 65535 bytes.
func frame(payload []byte) []byte {
	made := make([]byte, 8+len(payload))
	made[0], made[1] = 0x81, 0x80|126
	binary.BigEndian.PutUint16(made[2:], uint16(len(payload)))
	binary.LittleEndian.PutUint32(made[4:], rand.Uint32())
	for i, b := range payload {
		made[8+i] = b ^ made[4+i&3]
	}
	return made
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "goroutines:", err)
	os.Exit(1)
}

func dial(port int) *connection {
	socket, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		fail(err)
	}
	fmt.Fprint(socket, "GET /drain HTTP/1.1\r\nHost: peer\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n")
	answer := bufio.NewReader(socket)
	for {
		line, err := answer.ReadString('\n')
		if err != nil {
			fail(err)
		}
		if line == "\r\n" {
			return &connection{socket: socket}
		}
	}
}

func main() {
	port := flag.Int("port", 0, "of the draining peer")
	count := flag.Int("followers", 10000, "")
	n := flag.Int("connections", 16, "")
	seed := flag.Int("seed", 1, "")
	flag.Parse()
	random := rand.New(rand.NewSource(int64(*seed)))
	followers := make([]*follower, *count)
	for account := range followers {
		digest := sha256.Sum256([]byte(fmt.Sprintf("%d/%d", *seed, account)))
		units := int64(1500 + random.Intn(12000))
		followers[account] = &follower{
			account: account, apiKey: fmt.Sprintf("bench%059d", account), secret: []byte(hex.EncodeToString(digest[:])),
			allocation: big.NewRat(units, 1), available: big.NewRat(100000, 1), held: new(big.Rat), units: units,
		}
	}
	connections := make([]*connection, *n)
	for i := range connections {
		connections[i] = dial(*port)
	}
	fmt.Println(`{"ready":true}`)
	lines := bufio.NewScanner(os.Stdin)
	for number := 1; lines.Scan() && strings.HasPrefix(lines.Text(), "go"); number++ {
		began := time.Since(start)
		e := &event{number, sides[(number-1)%4], number%2 == 0, int64(650000 + number*37%1000 - 500)}
		var first, sent int64
		var group sync.WaitGroup
		group.Add(len(followers))
		for _, f := range followers {
			go func(f *follower) {
				defer group.Done()
				text := f.order(e)
				if text == nil {
					return
				}
				c := connections[f.account%len(connections)]
				c.mutex.Lock()
				_, err := c.socket.Write(frame(text))
				c.mutex.Unlock()
				if err != nil {
					fail(err)
				}
				atomic.CompareAndSwapInt64(&first, 0, int64(time.Since(start)))
				atomic.AddInt64(&sent, 1)
			}(f)
		}
		group.Wait()
		last := time.Since(start)
		fmt.Printf("{\"first_ns\":%d,\"last_ns\":%d,\"orders\":%d}\n", first-int64(began), int64(last-began), sent)
	}
}
