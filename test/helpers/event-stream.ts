/** Message of a stream of server-sent events. */
export interface ServerSentEvent {
  event: string;
  id: string;
  data: unknown;
}

/** Reads server-sent events as a browser does: a message counts only once its empty line has arrived. */
export class EventStream {
  readonly events: ServerSentEvent[] = [];
  readonly #abort = new AbortController();
  #lastId: string;
  /** Resolves at the end of the connection. */
  readonly closed: Promise<void>;
  #wake: () => void = () => {};

  constructor(url: string, lastId = '') {
    this.#lastId = lastId;
    this.closed = this.#read(url).catch(() => {});
  }

  /** Waits until `isEnough` holds. @throws Error after `ms` without it */
  async until(isEnough: (events: readonly ServerSentEvent[]) => boolean, ms = 120_000): Promise<void> {
    const deadline = performance.now() + ms;
    while (!isEnough(this.events)) {
      const left = deadline - performance.now();
      if (left <= 0) throw new Error(`Waited in vain; received ${JSON.stringify(this.events).slice(-2000)}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  /** Identity of the last whole message. */
  get lastId(): string {
    return this.#lastId;
  }

  /** Cuts the connection. */
  cut(): void {
    this.#abort.abort();
  }

  async #read(url: string): Promise<void> {
    const headers: Record<string, string> = this.#lastId === '' ? {} : { 'last-event-id': this.#lastId };
    const { body } = await fetch(url, { headers, signal: this.#abort.signal });
    const decoder = new TextDecoder();
    let text = '';
    for await (const bytes of body!) {
      text += decoder.decode(bytes, { stream: true });
      const messages = text.split('\n\n');
      text = messages.pop()!;
      for (const message of messages) this.#take(message);
      this.#wake();
    }
  }

  #take(message: string): void {
    const field = (name: string) =>
      message
        .split('\n')
        .filter((line) => line.startsWith(`${name}: `))
        .map((line) => line.slice(name.length + 2))
        .at(-1);
    this.#lastId = field('id') ?? this.#lastId;
    const data = field('data');
    if (data === undefined) return;
    this.events.push({ event: field('event') ?? 'message', id: this.#lastId, data: JSON.parse(data) });
  }
}
