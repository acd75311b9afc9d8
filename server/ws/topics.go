package ws

import (
	"regexp"
	"strings"
	"sync"
)

var topicName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// systemPrefix begins the topics that the server alone publishes to.
const systemPrefix = "system."

// The system topics.
const (
	SystemExperts = systemPrefix + "experts" // the processes, whenever one of them changes
	SystemStats   = systemPrefix + "stats"   // queue and connections, every second
)

// Key is a topic as a tenant sees it; the tenant is empty for system topics.
type Key struct{ Tenant, Topic string }

// KeyOf is the key of a topic for a tenant.
func KeyOf(tenant, topic string) Key {
	if strings.HasPrefix(topic, systemPrefix) {
		return Key{Topic: topic}
	}
	return Key{tenant, topic}
}

// System reports whether the server alone publishes to the topic.
func (k Key) System() bool { return k.Tenant == "" }

// Subscriber is told what is published. Deliver must not block and must not call the Broker.
type Subscriber interface{ Deliver(f Frame) }

// Broker knows who hears of which topic. Its calls are safe from any goroutine.
type Broker struct {
	mu     sync.RWMutex // guards topics
	topics map[Key]map[Subscriber]struct{}
}

// NewBroker has no topics: one exists while somebody is subscribed to it.
func NewBroker() *Broker { return &Broker{topics: map[Key]map[Subscriber]struct{}{}} }

// Subscribe adds a subscriber; twice is once. It is handed first before anything that is published, and hears all that is
// published once it has it: so first can say that it is subscribed.
func (b *Broker) Subscribe(k Key, s Subscriber, first ...Frame) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range first {
		s.Deliver(f)
	}
	if b.topics[k] == nil {
		b.topics[k] = map[Subscriber]struct{}{}
	}
	b.topics[k][s] = struct{}{}
}

// Unsubscribe removes a subscriber from topics.
func (b *Broker) Unsubscribe(s Subscriber, keys ...Key) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, k := range keys {
		delete(b.topics[k], s)
		if len(b.topics[k]) == 0 {
			delete(b.topics, k)
		}
	}
}

// Publish hands a frame to all subscribers of a topic and returns how many there are.
func (b *Broker) Publish(k Key, f Frame) int {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for s := range b.topics[k] {
		s.Deliver(f)
	}
	return len(b.topics[k])
}

// Heard reports whether anybody is subscribed to a topic.
func (b *Broker) Heard(k Key) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return len(b.topics[k]) > 0
}
