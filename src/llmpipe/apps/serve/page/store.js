// Conversations, kept in this browser (IndexedDB) and nowhere else.
//
// A conversation is a tree: editing a message or asking again adds a branch and loses nothing. `head` is
// the last message of the branch that is shown.

const opened = new Promise((resolve, reject) => {
  const request = indexedDB.open("llmpipe", 1);
  request.onupgradeneeded = () => request.result.createObjectStore("conversations", { keyPath: "id" });
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
}).catch(() => null);  // private windows may have no storage: then nothing outlives the tab

async function ask(mode, make) {
  const database = await opened;
  if (!database) return undefined;
  return new Promise((resolve, reject) => {
    const request = make(database.transaction("conversations", mode).objectStore("conversations"));
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

export async function all() {
  const found = (await ask("readonly", (store) => store.getAll())) ?? [];
  return found.sort((a, b) => b.updated - a.updated);
}

export function save(conversation) {
  conversation.updated = Date.now();
  return ask("readwrite", (store) => store.put(conversation));
}

export const remove = (id) => ask("readwrite", (store) => store.delete(id));

export function newConversation(kind) {
  return {
    id: crypto.randomUUID(), kind, title: "", updated: Date.now(), nodes: {}, head: null, nNodes: 0,
    text: "", tokens: null,  // of kind `text`: what there is so far
  };
}

/** Add a message below another one, and make it the head. */
export function addNode(conversation, parent, role, segments) {
  const id = String(conversation.nNodes++);
  const node = { id, parent, role, segments, tokens: [], nPrompt: 0, finish: null };
  conversation.nodes[id] = node;
  conversation.head = id;
  if (!conversation.title && role === "user") conversation.title = segments[0].text.trim().slice(0, 60);
  return node;
}

/** The messages from the first one to a node. */
export function path(conversation, id = conversation.head) {
  const found = [];
  for (let node = conversation.nodes[id]; node; node = conversation.nodes[node.parent]) found.unshift(node);
  return found;
}

/** A node and the alternatives to it, oldest first. */
export function siblings(conversation, node) {
  return Object.values(conversation.nodes)
    .filter((other) => other.parent === node.parent && other.role === node.role)
    .sort((a, b) => a.id - b.id);
}

/** Show the branch of a node, down to its newest message. */
export function show(conversation, node) {
  let last = node;
  for (;;) {
    const below = Object.values(conversation.nodes).filter((other) => other.parent === last.id);
    if (!below.length) break;
    last = below.sort((a, b) => b.id - a.id)[0];
  }
  conversation.head = last.id;
}
