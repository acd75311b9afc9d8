// Package redistest gives tests a real redis-server, and a proxy before it that fails in every way that a network and a
// server can: refuses, freezes, delays, cuts, flips bytes, splits replies and answers with other connections' replies.
//
// Only tests import it. It refuses to stand in for Redis: who can't find redis-server fails.
package redistest
