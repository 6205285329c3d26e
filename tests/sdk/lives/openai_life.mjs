// The life of batches by the npm package `openai`: node openai_life.mjs URL KEY, from the folder it is installed in.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import OpenAI, { toFile } from "openai";

const [url, key] = process.argv.slice(2);
const CHAT = "/v1/chat/completions";
const EIGHT = "validating failed in_progress finalizing completed expired cancelling cancelled".split(" ");
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key });

const line = (custom_id, text, to = CHAT) =>
  JSON.stringify({ custom_id, method: "POST", url: to, body: { model: "gpt-any", messages: [{ role: "user", content: text }] } });

async function make(...lines) {
  const file = await client.files.create({ file: await toFile(Buffer.from(lines.join("\n")), "requests.jsonl"), purpose: "batch" });
  assert.equal(await (await client.files.content(file.id)).text(), lines.join("\n"));
  return client.batches.create({ input_file_id: file.id, endpoint: CHAT, completion_window: "24h", metadata: { a: "b" } });
}

async function ended(batch) {
  const began = Date.now();
  while (!["completed", "failed", "expired", "cancelled"].includes(batch.status)) {
    assert(EIGHT.includes(batch.status));
    assert(Date.now() - began < 90_000);
    await new Promise((resolve) => setTimeout(resolve, 50));
    batch = await client.batches.retrieve(batch.id);
  }
  return batch;
}

async function rows(fileId) {
  const text = await (await client.files.content(fileId)).text();
  return text.trim().split("\n").map((row) => JSON.parse(row));
}

const began = Date.now();
const done = await ended(await make(line("a", "One"), line("b", "[fault=status:400]")));
assert.deepEqual(done.request_counts, { total: 2, completed: 1, failed: 1 });
assert.equal((await rows(done.output_file_id))[0].response.body.choices[0].message.content, "You said: One");
assert.equal((await rows(done.error_file_id))[0].response.status_code, 400);
assert((await client.files.delete(done.output_file_id)).deleted);
await assert.rejects(client.files.retrieve(done.output_file_id), OpenAI.NotFoundError);
await assert.rejects(client.batches.cancel(done.id), OpenAI.ConflictError);

assert.equal((await ended(await make(line("a", "One")))).error_file_id, null);
assert.equal((await ended(await make(line("a", "[fault=status:401]")))).output_file_id, null);
const failed = await ended(await make(line("a", "One"), line("b", "Two", "/v1/embeddings")));
assert.deepEqual(failed.errors.data.map((one) => [one.line, one.code]), [[2, "url_mismatch"]]);
const many = await make(...Array.from({ length: 3000 }, (_, n) => line(`${n}`, `${n}`)));
const cancelled = await ended(await client.batches.cancel(many.id));
assert.equal(cancelled.status, "cancelled");
assert.equal((await rows(cancelled.error_file_id)).length, cancelled.request_counts.failed);

const listed = [];
for await (const batch of client.batches.list({ limit: 2 })) listed.push(batch.id);
assert.equal(new Set(listed).size, 5);
assert.equal(listed.length, 5);
await assert.rejects(new OpenAI({ baseURL: `${url}/v1`, apiKey: "gm_none" }).files.list(), OpenAI.AuthenticationError);
await assert.rejects(client.batches.retrieve("batch_none"), OpenAI.NotFoundError);
await assert.rejects(client.batches.list({ after: "none" }), OpenAI.BadRequestError);

const came = [];
const receiver = createServer((request, response) => {
  const pieces = [];
  request.on("data", (piece) => pieces.push(piece));
  request.on("end", () => {
    came.push([Buffer.concat(pieces).toString(), request.headers]);
    response.writeHead(204).end();
  });
});
await new Promise((resolve) => receiver.listen(0, "127.0.0.1", resolve));
const next = async () => {
  for (const until = Date.now() + 60_000; !came.length; ) {
    assert(Date.now() < until);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return came.shift();
};
const hook = `http://127.0.0.1:${receiver.address().port}/hook`;
const endpoint = await client.webhooks.create({ name: "ends", url: hook, event_types: ["batch.completed"] });
assert.equal((await client.webhooks.update(endpoint.id, { name: "other" })).name, "other");
assert.equal((await client.webhooks.test(endpoint.id, { event_type: "batch.failed" })).status_code, 204);
assert.equal((await client.webhooks.unwrap(...(await next()), endpoint.signing_secret)).type, "batch.failed");
const rotated = await client.webhooks.rotateSecret(endpoint.id);
const last = await ended(await make(line("a", "One")));
const event = await client.webhooks.unwrap(...(await next()), rotated.signing_secret);
assert.deepEqual([event.type, event.data.id], ["batch.completed", last.id]);
assert((await client.webhooks.delete(endpoint.id)).deleted);
await assert.rejects(client.webhooks.retrieve(endpoint.id), OpenAI.NotFoundError);
receiver.close();
receiver.closeAllConnections();
console.log(JSON.stringify({ client: "openai (npm)", seconds: Math.round((Date.now() - began) / 100) / 10 }));
