//! What memory a monitor takes beside its guest's.

/// The name of guest RAM among a process's mappings. Views map parts of it again.
const GUEST_RAM: &str = "/memfd:ambos-guest-ram";

/// Memory of a process beside guest RAM, translated code included, in MiB.
pub(crate) fn beside_guest_ram(process: u32) -> u64 {
    // The process may have ended.
    let maps = std::fs::read_to_string(format!("/proc/{process}/smaps")).unwrap_or_default();
    kib_beside_guest_ram(&maps).div_ceil(1024)
}

/// The same of a list of mappings. What is mapped of a memory file several times, as translated code is, counts once.
fn kib_beside_guest_ram(maps: &str) -> u64 {
    let (mut counted, mut sum) = (None, 0);
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(first) = words.next() else { continue };
        match first.strip_suffix(':') {
            Some(field) if Some(field) == counted => {
                sum += words.next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default();
            }
            Some(_) => {}
            // The first line of a mapping: addresses, permissions, offset, device, inode and name.
            None => {
                counted = match words.nth(4) {
                    Some(GUEST_RAM) => None,
                    Some(name) if name.starts_with("/memfd:") => Some("Pss"),
                    _ => Some("Rss"),
                };
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_ram_does_not_count_and_code_counts_once() {
        let maps = "\
7f00-7f01 rw-s 00000000 00:01 7 /memfd:ambos-guest-ram (deleted)
Rss: 5000 kB
Pss: 5000 kB
7f01-7f02 r-xs 00000000 00:01 8 /memfd:ambos-code (deleted)
Size: 64 kB
Rss: 40 kB
Pss: 20 kB
7f02-7f03 rw-s 00000000 00:01 8 /memfd:ambos-code (deleted)
Rss: 40 kB
Pss: 20 kB
7f03-7f04 rw-p 00000000 00:00 0
Rss: 8 kB
Pss: 8 kB
7f04-7f05 r-xp 00000000 08:01 9 /usr/bin/ambos
Rss: 3 kB
Pss: 1 kB
VmFlags: rd ex
";
        assert_eq!(kib_beside_guest_ram(maps), 40 + 8 + 3);
        assert_eq!(kib_beside_guest_ram(""), 0);
    }
}
