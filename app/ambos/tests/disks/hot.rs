//! Readers and writers of two disks, all at once, for a time that `AMBOS_TEST_HOT_SECONDS` says.

use crate::guest::{host, image, run, setting};
use std::fmt::Write;

/// Bytes of a piece that a reader reads, and how many the disk has.
const PIECE: usize = 64 << 10;
const PIECES: usize = 256;

/// Two writers of files that check what they wrote once the guest's cache has forgotten it, two readers of
/// pieces whose content is known, and one that makes and removes many files.
const SCRIPT: &str = r#"
r=$2; mke2fs -F /dev/$1 > /dev/null && mount -t ext4 /dev/$1 /mnt || exit 1
dd if=/dev/urandom of=/tmp/src bs=64k count=48 2> /dev/null
end=$(($(cut -d. -f1 /proc/uptime) + SECONDS))
more() { [ ! -e /tmp/wrong ] && [ "$(cut -d. -f1 /proc/uptime)" -lt $end ]; }
wrong() { echo "wrong: $*"; touch /tmp/wrong; }
write() { n=0; while more; do
    { echo "$1 $n"; cat /tmp/src; } > /tmp/is$1; dd if=/tmp/is$1 of=/mnt/f$1 bs=64k conv=fsync 2> /dev/null
    echo 3 > /proc/sys/vm/drop_caches
    cmp /tmp/is$1 /mnt/f$1 || wrong file $1 $n; n=$((n+1)); done; [ $n -gt 0 ] && echo "writer $1"; }
read_() { n=$1; while more; do p=$((n * 37 % PIECES))
    s=$(dd if=/dev/$r bs=64k skip=$p count=1 iflag=direct 2> /dev/null | uniq)
    [ "$s" = "$(printf 'piece %09d' $p)" ] || wrong piece $p; n=$((n+1)); done; [ $n -gt $1 ] && echo "reader $1"; }
many() { n=0; while more; do mkdir /mnt/d && for i in 1 2 3 4 5 6 7 8 9; do echo $i > /mnt/d/$i; done; sync
    [ "$(cat /mnt/d/* | tr -d '\n')" = 123456789 ] || wrong small; rm -r /mnt/d; n=$((n+1)); done; [ $n -gt 0 ] && echo many; }
write 1 & write 2 & read_ 0 & read_ 100 & many & wait
umount /mnt && [ ! -e /tmp/wrong ]"#;

/// An image whose pieces say which they are.
fn pieces() -> String {
    (0..PIECES).fold(String::new(), |mut text, piece| {
        let start = text.len();
        while text.len() < start + PIECE {
            writeln!(text, "piece {piece:09}").unwrap();
        }
        text
    })
}

fn readers_and_writers(technique: &str, first: &str, second: &str) {
    let folder = tempfile::tempdir().unwrap();
    let written = image(folder.path(), "written", 64 << 20);
    let read = folder.path().join("read");
    let script = SCRIPT
        .replace("PIECES", &PIECES.to_string())
        .replace("SECONDS", &setting("AMBOS_TEST_HOT_SECONDS", 4).to_string());
    // It is too long for a kernel's command line.
    let mut content = pieces();
    content.extend(script.chars().chain(std::iter::repeat('\n')).take(PIECE));
    std::fs::write(&read, content).unwrap();
    // Generic disks have their names in the order in which they answered.
    let command = format!(
        "until [ -b /dev/{first} -a -b /dev/{second} ]; do sleep 1; done
         w={first} r={second}; [ \"$(head -c 5 /dev/$r)\" = piece ] || w={second} r={first}
         dd if=/dev/$r bs=64k skip={PIECES} 2> /dev/null > /tmp/s; sh /tmp/s $w $r"
    );
    let read = format!("{},readonly", read.display());
    let disks = ["-t", technique, "--cpus", "2", "--disk", &written, "--disk", &read];
    let (output, _) = run(&disks, &command);
    let mut lines: Vec<&str> = output.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["many", "reader 0", "reader 100", "writer 1", "writer 2"]);
    host("e2fsck", &["-fn", &written]);
}

#[test]
fn generic_disks_are_read_and_written_at_once() {
    readers_and_writers("full", "sda", "sdb");
}

#[test]
fn paravirtual_disks_are_read_and_written_at_once() {
    readers_and_writers("hybrid", "vda", "vdb");
}

#[test]
fn disks_of_a_pv_guest_are_read_and_written_at_once() {
    readers_and_writers("para", "xvda", "xvdb");
}
