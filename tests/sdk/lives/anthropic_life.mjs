// The life of message batches by the npm package `@anthropic-ai/sdk`: node anthropic_life.mjs URL KEY, from its folder.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";

const [url, key] = process.argv.slice(2);
const client = new Anthropic({ baseURL: url, apiKey: key });
const batches = client.messages.batches;

const asked = (custom_id, text) => ({
  custom_id,
  params: { model: "claude-any", max_tokens: 100, messages: [{ role: "user", content: text }] },
});

async function ended(batch) {
  const began = Date.now();
  while (batch.processing_status !== "ended") {
    assert(["in_progress", "canceling"].includes(batch.processing_status));
    assert(Date.now() - began < 90_000);
    await new Promise((resolve) => setTimeout(resolve, 50));
    batch = await batches.retrieve(batch.id);
  }
  return batch;
}

async function results(batch) {
  const found = [];
  for await (const one of await batches.results(batch.id)) found.push(one);
  return found;
}

const began = Date.now();
const done = await ended(await batches.create({ requests: [asked("a", "One"), asked("b", "[fault=status:400]")] }));
const [first, second] = await results(done);
assert.equal(first.result.message.content[0].text, "You said: One");
assert.equal(second.result.error.error.type, "invalid_request_error");
await assert.rejects(batches.cancel(done.id), Anthropic.ConflictError);
assert.equal((await batches.delete(done.id)).type, "message_batch_deleted");
await assert.rejects(batches.retrieve(done.id), Anthropic.NotFoundError);

assert.equal((await ended(await batches.create({ requests: [asked("a", "[fault=status:401]")] }))).request_counts.errored, 1);
const many = await batches.create({ requests: Array.from({ length: 3000 }, (_, n) => asked(`${n}`, `${n}`)) });
await assert.rejects(batches.delete(many.id), Anthropic.ConflictError);
const cancelled = await ended(await batches.cancel(many.id));
assert(cancelled.request_counts.canceled > 0);
assert.equal((await results(cancelled)).length, 3000);
for (let n = 0; n < 3; n++) await ended(await batches.create({ requests: [asked("a", "One")] }));

const listed = [];
for await (const batch of batches.list({ limit: 2 })) listed.push(batch.id);
assert.equal(new Set(listed).size, 5);
assert.equal(listed.length, 5);
await assert.rejects(new Anthropic({ baseURL: url, apiKey: "gm_none" }).messages.batches.list(), Anthropic.AuthenticationError);
await assert.rejects(batches.create({ requests: [asked("a", "One"), asked("a", "Two")] }), Anthropic.BadRequestError);
console.log(JSON.stringify({ client: "@anthropic-ai/sdk (npm)", seconds: Math.round((Date.now() - began) / 100) / 10 }));
