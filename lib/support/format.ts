/** Formats a ratio from 0 to 1 as a percentage: '48.5', or '–' if there is no value. */
export function percent(ratio: number | null | undefined, digits = 1): string {
  return ratio === null || ratio === undefined || Number.isNaN(ratio) ? '–' : (ratio * 100).toFixed(digits);
}

/** Formats a difference of two ratios in percentage points: '+3.2', '-0.4'. */
export function signedPercent(difference: number | null | undefined, digits = 1): string {
  const text = percent(difference, digits);
  return difference !== null && difference !== undefined && difference >= 0 ? `+${text}` : text;
}

/** Formats seconds in at most two units: '0.4 s', '12 s', '3 min 20 s', '2 h 5 min'. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return '–';
  if (seconds < 9.95 && !Number.isInteger(seconds)) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min${whole % 60 ? ` ${whole % 60} s` : ''}`;
  const minutes = Math.round((whole % 3600) / 60);
  return `${Math.floor(whole / 3600)} h${minutes ? ` ${minutes} min` : ''}`;
}

/** Formats a number of bytes: '12 bytes', '4.2 kB', '177 MB'. */
export function bytesText(bytes: number): string {
  const units = ['kB', 'MB', 'GB'];
  if (bytes < 1000) return counted(bytes, 'byte');
  const power = Math.min(units.length, Math.floor(Math.log10(bytes) / 3));
  const value = bytes / 1000 ** power;
  return `${value.toFixed(value < 99.95 ? 1 : 0)} ${units[power - 1]}`;
}

/** Formats a number with its noun: '1 image', '12 images'. */
export function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}

/** A path as a POSIX shell reads it as one word: as it is where nothing in it is special, or else in single quotes. */
export function shellWord(text: string): string {
  // A word that starts with a dash would be an option.
  const word = text.startsWith('-') ? `./${text}` : text;
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/**
 * Joins a message into one line, because an error is reported as one line. Lists of details are left out, such as the
 * indented lines after "It was looked for at:". BIDISEG_DEBUG=1 shows them.
 */
export function oneLine(text: string): string {
  return text
    .replace(/[^.\n]*:\n(?:[ \t]+.*\n?)+/g, '\n')
    .replace(/\s*\n\s*/g, ' ')
    .replace(/ {2,}/g, ' ')
    .trim();
}
