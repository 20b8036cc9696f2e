// Two "machines" on this one: network namespaces that a pair of virtual devices of a given speed joins. Needs root and iproute2.
import { execFileSync } from 'node:child_process';

const name = (rank) => `bidiseg-bench-${rank}`;
const device = (rank) => `bidiseg-b${rank}`;
const ip = (...args) => execFileSync('ip', args, { stdio: ['ignore', 'ignore', 'pipe'] });

/** Joins the two machines by a link of this `rate`, in words of tc (`1gbit`), until the process ends. */
export function makeLink(rate) {
  process.on('exit', removeLink);
  removeLink();
  for (const rank of [0, 1]) ip('netns', 'add', name(rank));
  ip('link', 'add', device(0), 'netns', name(0), 'type', 'veth', 'peer', 'name', device(1), 'netns', name(1));
  for (const rank of [0, 1]) {
    const within = (...args) => ip('netns', 'exec', name(rank), ...args);
    within('ip', 'address', 'add', `10.213.8.${rank + 1}/24`, 'dev', device(rank));
    for (const each of [device(rank), 'lo']) within('ip', 'link', 'set', each, 'up');
    within(
      'tc',
      'qdisc',
      'add',
      'dev',
      device(rank),
      'root',
      'tbf',
      'rate',
      rate,
      'burst',
      '256kb',
      'latency',
      '50ms',
    );
  }
}

function removeLink() {
  for (const rank of [0, 1]) {
    try {
      ip('netns', 'delete', name(rank));
    } catch {
      // was not there
    }
  }
}

/** Words before the command of a process that is to run on the machine of `rank`, and its environment. */
export const onMachine = (rank) => ({
  before: ['ip', 'netns', 'exec', name(rank)],
  env: { GLOO_SOCKET_IFNAME: device(rank) },
});
