//! A guest that sends frames driven by bytes. Whatever the bytes are, nothing leaves this machine: frames go to the
//! network's own services, to addresses that documentation is written with, or to a server of the test's.

use ambos_net::{Accepts, NetBackend, NetPort, Offload, Slice, UserNet, UserOptions};
use ambos_random::Input;
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Longest wait for anything: failure, not measure.
const PATIENCE: Duration = Duration::from_secs(60);
const GUEST: [u8; 6] = [0x02, 0x41, 0x6d, 0x62, 0x6f, 0x73];
const GATEWAY: [u8; 4] = [10, 0, 2, 2];
/// Addresses behind which nobody is.
const NOBODY_V4: [u8; 4] = [192, 0, 2, 1];
const NOBODY_V6: [u8; 4] = [0x20, 0x01, 0x0d, 0xb8];

struct Port(Mutex<SyncSender<()>>);

impl NetPort for Port {
    fn changed(&self) {
        // One change that is not looked at yet is as good as many.
        let _ = self.0.lock().unwrap().try_send(());
    }
}

/// A network, with a guest that is fed by the fuzzer.
pub(crate) struct Guest {
    network: UserNet,
    changes: Receiver<()>,
    server: u16,
    question: u16,
    _port: Arc<Port>,
    _listener: TcpListener,
}

impl Guest {
    pub(crate) fn new() -> Self {
        let network = UserNet::new(&UserOptions::default()).unwrap();
        let (sender, changes) = sync_channel(1);
        let port = Arc::new(Port(Mutex::new(sender)));
        let weak: std::sync::Weak<Port> = Arc::downgrade(&port);
        network.attach(weak);
        network.accept(Accepts::all());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap().port();
        Self { network, changes, server, question: 0, _port: port, _listener: listener }
    }

    /// Sends what `data` says, and checks that the network still answers.
    pub(crate) fn run(&mut self, data: &[u8]) {
        let mut input = Input::new(data);
        while !input.is_empty() {
            let frame = self.frame(&mut input);
            let header = input.bytes(12).try_into().unwrap_or([0; 12]);
            let offload =
                if input.byte() & 1 == 0 { Offload::NONE } else { Offload::from_header(&header) };
            self.send(frame, &offload);
            self.receive(|_| {});
        }
        self.ping();
    }

    fn frame(&self, input: &mut Input<'_>) -> Vec<u8> {
        let kind = input.byte();
        let length = usize::from(input.byte()) * if kind & 0x80 == 0 { 1 } else { 16 };
        let mut frame = vec![0x52, 0x55, 10, 0, 2, 2];
        frame.extend(GUEST);
        match kind & 7 {
            0..=4 => {
                frame.extend([8, 0]);
                let protocol = [1, 6, 17, 17, 2][usize::from(kind & 7)];
                let mut payload = input.bytes(length);
                let mut to = GATEWAY;
                match protocol {
                    6 if payload.len() >= 4 => {
                        payload[2..4].copy_from_slice(&self.server.to_be_bytes())
                    }
                    17 if kind & 7 == 2 && payload.len() >= 4 => {
                        payload[2..4].copy_from_slice(&67u16.to_be_bytes());
                    }
                    1 => {}
                    _ => to = NOBODY_V4,
                }
                frame.extend([0x45, 0]);
                frame.extend((20 + payload.len() as u16).to_be_bytes());
                frame.extend([0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 2, 15]);
                frame.extend(to);
                // Headers that contradict themselves, at times; what is beyond the destination stays.
                if kind & 0x40 != 0 {
                    let at = 14 + usize::from(input.byte()) % 12;
                    frame[at] = input.byte();
                }
                frame.extend(payload);
            }
            5 => {
                frame.extend([8, 6]);
                frame.extend(input.bytes(length));
            }
            6 => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                let payload = input.bytes(length);
                frame.extend((payload.len() as u16).to_be_bytes());
                frame.extend([[58, 6, 17, 0][usize::from(kind >> 3 & 3)], 255]);
                frame.extend([0xfe, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x15]);
                frame.extend(NOBODY_V6);
                frame.extend([0; 12]);
                frame.extend(payload);
            }
            _ => {
                // No packet at all.
                let mut bytes = input.bytes(length);
                if let Some(kind) = bytes.get_mut(0) {
                    *kind |= 0x90;
                }
                frame.extend(bytes);
            }
        }
        frame
    }

    fn send(&self, mut frame: Vec<u8>, offload: &Offload) {
        while self.network.transmit(offload, &[Slice::from(&mut frame[..])]).is_err() {
            self.changes.recv_timeout(PATIENCE).unwrap();
        }
    }

    fn receive(&self, mut look: impl FnMut(&[u8])) {
        self.network.receive(&mut |frame| {
            look(&frame.parts.concat());
            true
        });
    }

    /// Asks the gateway for an echo and waits for the answer.
    fn ping(&mut self) {
        self.question = self.question.wrapping_add(1);
        let question = self.question.to_be_bytes();
        let mut frame = vec![0x52, 0x55, 10, 0, 2, 2];
        frame.extend(GUEST);
        frame.extend([8, 0, 0x45, 0, 0, 32, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2]);
        frame.extend([8, 0, 0, 0, 0xa5, 0x5a, question[0], question[1], 1, 2, 3, 4]);
        self.send(frame, &Offload::NONE);
        loop {
            let mut answered = false;
            self.receive(|frame| {
                let wanted = [0xa5, 0x5a, question[0], question[1]];
                answered |= frame.get(38..42) == Some(&wanted) && frame[34] == 0;
            });
            if answered {
                return;
            }
            self.changes.recv_timeout(PATIENCE).unwrap();
        }
    }
}
