/** ONNX version of every operator in OnnxGraph, the lowest version that readers still ask for. */
export const OPSET = 17;

/** Attribute of a node. Fractions are floats, whole numbers are integers. */
type Attribute = number | readonly number[] | string;

/** Input or output of a model. A dimension given by a name may have any size. */
export interface OnnxValue {
  name: string;
  shape: readonly (number | string)[];
  description: string;
}

/** Constant that is part of the graph. Weights are not. */
interface Constant {
  name: string;
  type: 'FLOAT' | 'INT64';
  shape: readonly number[];
  bytes: Uint8Array;
}

/** Graph of ONNX operators. Every value has the name of the node that computes it. */
export class OnnxGraph {
  readonly nodes: { op: string; name: string; inputs: string[]; attributes: Record<string, Attribute> }[] =
    [];
  readonly constants: Constant[] = [];
  /** Names of the weights that nodes use, in the order of their first use. */
  readonly weights = new Set<string>();
  readonly #shapes: ReadonlyMap<string, readonly number[]>;
  readonly #names = new Set<string>();

  /** @param shapes shapes of all existing weights, by name */
  constructor(shapes: ReadonlyMap<string, readonly number[]>) {
    this.#shapes = shapes;
  }

  has(weight: string): boolean {
    return this.#shapes.has(weight);
  }

  shapeOf(weight: string): readonly number[] {
    const shape = this.#shapes.get(weight);
    if (!shape) throw new Error(`the network has no weight ${weight}`);
    return shape;
  }

  /** Adds a node. @returns the name of its value, which is the node's name */
  node(name: string, op: string, inputs: string[], attributes: Record<string, Attribute> = {}): string {
    this.#claim(name);
    for (const input of inputs) if (this.#shapes.has(input)) this.weights.add(input);
    this.nodes.push({ op, name, inputs, attributes });
    return name;
  }

  integers(name: string, values: readonly number[]): string {
    const bytes = new Uint8Array(BigInt64Array.from(values, BigInt).buffer);
    return this.#constant({ name, type: 'INT64', shape: [values.length], bytes });
  }

  float(name: string, value: number): string {
    const bytes = new Uint8Array(Float32Array.of(value).buffer);
    return this.#constant({ name, type: 'FLOAT', shape: [], bytes });
  }

  #constant(constant: Constant): string {
    this.#claim(constant.name);
    this.constants.push(constant);
    return constant.name;
  }

  #claim(name: string): void {
    if (this.#names.has(name) || this.#shapes.has(name)) throw new Error(`two values are named ${name}`);
    this.#names.add(name);
  }
}
