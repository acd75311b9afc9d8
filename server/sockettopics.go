package server

import (
	"crypto/sha256"
	"encoding/json"
	"net/http"

	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/strictjson"
	"github.com/pimoe/pimoe/server/ws"
)

// topic is what a message about a topic asks for, if its sender may.
func (s *Server) topic(m ws.Message, p access.Principal) (ws.Key, json.RawMessage, error) {
	topic, payload, err := m.Topic()
	if err != nil {
		return ws.Key{}, nil, err
	}
	k := ws.KeyOf(p.Tenant, topic)
	if !k.System() {
		return k, payload, nil
	}
	if m.Type == ws.Publish {
		return k, nil, &fault{status: http.StatusForbidden, code: "forbidden", message: "only the server publishes to topics that begin with system.", param: "topic"}
	}
	rule, err := s.table.Of("WS subscribe " + topic)
	if err != nil {
		return k, nil, &strictjson.Error{Path: "topic", Expected: ws.SystemExperts + " or " + ws.SystemStats, Got: "another topic of the server's"}
	}
	return k, nil, rule.Allow(p)
}

// subscribe has the connection hear of a topic. Of a system topic it hears at once.
func (c *socket) subscribe(m ws.Message) error {
	k, _, err := c.hub.s.topic(m, c.who())
	if err != nil {
		return err
	}
	c.mu.Lock()
	err = c.state.Subscribe(k)
	c.mu.Unlock()
	if err != nil {
		return err
	}
	said := ws.Append(nil, "subscribed", m.ID, 0, mustJSON(map[string]any{"topic": k.Topic}))
	c.hub.broker.Subscribe(k, c, ws.Frame{Bytes: said}) // this is the reader, so the connection can't have ended meanwhile
	if k.System() {
		c.Deliver(ws.Frame{Bytes: topicEvent(k, c.hub.s.systemTopic(k))})
	}
	return nil
}

func (c *socket) unsubscribe(m ws.Message) error {
	topic, _, err := m.Topic()
	if err != nil {
		return err
	}
	c.mu.Lock()
	k := ws.KeyOf(c.principal.Tenant, topic)
	err = c.state.Unsubscribe(k)
	c.mu.Unlock()
	if err != nil {
		return err
	}
	c.hub.broker.Unsubscribe(c, k)
	c.push("unsubscribed", m.ID, mustJSON(map[string]any{"topic": topic}))
	return nil
}

// publish tells everybody of the sender's tenant who has subscribed to the topic.
func (c *socket) publish(m ws.Message) error {
	k, payload, err := c.hub.s.topic(m, c.who())
	if err != nil {
		return err
	}
	if most := c.hub.limits.payload; len(payload) > most {
		return &fault{status: http.StatusRequestEntityTooLarge, code: "payload_too_large", message: "a published message is larger than this server takes", param: "data.payload"}
	}
	n := c.hub.broker.Publish(k, ws.Frame{Bytes: topicEvent(k, payload)})
	c.push("published", m.ID, mustJSON(map[string]any{"topic": k.Topic, "receivers": n}))
	return nil
}

// topicEvent is what subscribers of a topic receive. payload is one JSON value.
func topicEvent(k ws.Key, payload []byte) []byte {
	return ws.Append(nil, "event", ws.ID{}, 0, mustJSON(map[string]any{"topic": k.Topic, "payload": json.RawMessage(payload)}))
}

// systemTopic is what a system topic says now.
func (s *Server) systemTopic(k ws.Key) []byte {
	if k.Topic == ws.SystemExperts {
		return mustJSON(map[string]any{"processes": s.service.experts(), "groups": s.service.groups(), "router": s.service.router()})
	}
	e := s.service.engine.Stats()
	return mustJSON(map[string]any{
		"running": e.Running, "queued": e.Queued, "pages": e.Pages, "free_pages": e.FreePages, "prompt_tokens": e.PromptTokens,
		"completion_tokens": e.CompletionTokens, "steps": e.Steps, "requests_in_flight": s.running.count(),
		"connections": s.sockets.count(), "draining": s.drain.Load(),
	})
}

// publishSystem tells whoever listens how the host is; of the processes only when something about them is new.
func (h *sockets) publishSystem() {
	if k := (ws.Key{Topic: ws.SystemStats}); h.broker.Heard(k) {
		h.broker.Publish(k, ws.Frame{Bytes: topicEvent(k, h.s.systemTopic(k))})
	}
	if k := (ws.Key{Topic: ws.SystemExperts}); h.broker.Heard(k) {
		now := h.s.systemTopic(k)
		if sum := sha256.Sum256(now); sum != h.experts {
			h.experts = sum
			h.broker.Publish(k, ws.Frame{Bytes: topicEvent(k, now)})
		}
	}
}
