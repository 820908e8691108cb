//! Distance: a forwarder of datagrams that holds each back for a while. A kernel without `sch_netem` has nothing else for it.

use std::collections::HashMap;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::node::Node;

/// How soon a thread sees that it is to end.
const GLANCE: Duration = Duration::from_millis(50);

/// A forwarder in front of a UDP service on the same machine. Each who sends to it is to the service a port of its own.
pub struct Distance {
    end: Arc<AtomicBool>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

/// What is under way: when it arrives, by which socket, to whom (none: to whom the socket is connected).
type Flight = (Instant, Arc<UdpSocket>, Option<SocketAddr>, Vec<u8>);

impl Distance {
    /// What comes to `port` of the machine goes to its `service`, and back, `one_way` later in each direction.
    ///
    /// # Panics
    /// When a socket cannot be made.
    #[track_caller]
    pub fn start(machine: &Node, port: u16, service: u16, one_way: Duration) -> Self {
        let this = Self { end: Arc::default(), threads: Arc::default() };
        let outside = Arc::new(socket(machine, port));
        let target = SocketAddrV4::new(machine.ipv4(), service);
        let flying = this.pilot();
        let (machine, end, threads) = (machine.clone(), Arc::clone(&this.end), Arc::clone(&this.threads));
        let back = this.pilot();
        this.spawn(move || {
            let mut inside: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
            read(&outside.clone(), &end, |from, bytes| {
                let socket = inside.entry(from).or_insert_with(|| {
                    let socket = Arc::new(socket(&machine, 0));
                    socket.connect(target).expect("a connected socket");
                    let (reader, outside) = (Arc::clone(&socket), Arc::clone(&outside));
                    let (end, back) = (Arc::clone(&end), back.clone());
                    threads.lock().unwrap().push(thread::spawn(move || {
                        read(&reader, &end, |_, bytes| {
                            let flight = (Instant::now() + one_way, Arc::clone(&outside), Some(from), bytes);
                            let _ = back.send(flight);
                        });
                    }));
                    socket
                });
                let _ = flying.send((Instant::now() + one_way, Arc::clone(socket), None, bytes));
            });
        });
        this
    }

    /// A thread that sends what it is given when its time has come. All wait equally long: the order stays.
    fn pilot(&self) -> Sender<Flight> {
        let (sender, flights): (_, Receiver<Flight>) = channel();
        self.spawn(move || {
            for (at, socket, to, bytes) in flights {
                thread::sleep(at.saturating_duration_since(Instant::now()));
                // The service may be dead: that is its business.
                let _ = match to {
                    Some(to) => socket.send_to(&bytes, to),
                    None => socket.send(&bytes),
                };
            }
        });
        sender
    }

    fn spawn(&self, work: impl FnOnce() + Send + 'static) {
        self.threads.lock().unwrap().push(thread::spawn(work));
    }
}

impl Drop for Distance {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Release);
        loop {
            // Not under the lock, which a thread that is to end may want.
            let Some(thread) = self.threads.lock().unwrap().pop() else { break };
            let _ = thread.join();
        }
    }
}

fn socket(machine: &Node, port: u16) -> UdpSocket {
    let address = machine.ipv4();
    let socket = machine.inside(|| UdpSocket::bind((address, port)).expect("a port"));
    socket.set_read_timeout(Some(GLANCE)).unwrap();
    socket
}

/// Reads until the end; what is not there or refused now may come later.
fn read(socket: &UdpSocket, end: &AtomicBool, mut got: impl FnMut(SocketAddr, Vec<u8>)) {
    let mut buffer = vec![0; 65_536];
    while !end.load(Ordering::Acquire) {
        if let Ok((len, from)) = socket.recv_from(&mut buffer) {
            got(from, buffer[..len].to_vec());
        }
    }
}
