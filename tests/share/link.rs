//! What carries records from one balancer to another: a TCP connection.

use std::io::Read;
use std::io::Write;
use std::net::Ipv4Addr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use xvs::Client;
use xvs::FlowReader;
use xvs::FlowRecord;

/// Two threads, one at each end. They end when it is dropped, and what was not sent by
/// then is not.
pub struct Link {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Link {
    /// Tells one balancer of all flows of the other.
    pub fn new(from: &Arc<Client>, to: &Arc<Client>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let sender = TcpStream::connect(address).expect("somebody listens");
        let (receiver, _) = listener.accept().expect("a connection was made");
        let stop = Arc::new(AtomicBool::new(false));
        let reader = from.flow_reader().expect("flows are shared");
        let (stopped, to) = (Arc::clone(&stop), Arc::clone(to));
        let threads = vec![
            thread::spawn(move || send(reader, sender, &stopped)),
            thread::spawn(move || receive(receiver, &to)),
        ];
        Self { stop, threads }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic was reported when it happened; another test will miss the flows.
            let _ = thread.join();
        }
    }
}

fn send(mut reader: FlowReader, mut stream: TcpStream, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let records = reader.read(Duration::from_millis(20)).expect("the ring can be read");
        let octets: Vec<u8> = records.iter().flat_map(FlowRecord::to_bytes).collect();
        stream.write_all(&octets).expect("the other end is there");
    }
}

fn receive(mut stream: TcpStream, to: &Client) {
    let mut pending = Vec::new();
    let mut buffer = vec![0; 65_536];
    loop {
        match stream.read(&mut buffer).expect("the connection goes on until its end") {
            0 => return,
            count => pending.extend(&buffer[..count]),
        }
        let whole = pending.len() / FlowRecord::LENGTH * FlowRecord::LENGTH;
        let accepted = to.write_flows(&pending[..whole]);
        assert_eq!(accepted.refused(), 0, "{accepted:?}");
        pending.drain(..whole);
    }
}
