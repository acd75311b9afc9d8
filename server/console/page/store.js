// Who listens to what: a topic has listeners, and no memory.

const listeners = new Map();

// on has f called with every value of a topic; what it returns ends that.
export function on(topic, f) {
  if (!listeners.has(topic)) listeners.set(topic, new Set());
  listeners.get(topic).add(f);
  return () => listeners.get(topic).delete(f);
}

export function emit(topic, value) {
  for (const f of listeners.get(topic) ?? []) f(value);
}
