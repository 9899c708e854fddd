//! What the server does when it is started without a port: everything once, as its visitors see it.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use workring_programs::{Client, Response, SUM_OF_ROOTS};

/// The longest that what was done takes to be seen.
const LIMIT: Duration = Duration::from_secs(20);

/// Ends with the server stopped, by `stop`, in the middle of a computation.
pub(crate) fn try_out(server: SocketAddr, stop: oneshot::Sender<()>) -> io::Result<()> {
    let mut client = Client::connect(server)?;
    assert_eq!(client.get("/")?.body, "ok\n");
    assert_eq!(client.get("/compute?n=4")?.body, (1.0 + 2_f64.sqrt() + 3_f64.sqrt() + 2.0).to_string());
    assert_eq!(client.get("/compute?n=many")?.status, 400);

    // As many as the queue holds, each for minutes, by visitors who lose patience.
    let mut visitors = (0..64).map(|_| Client::connect(server)).collect::<io::Result<Vec<_>>>()?;
    visitors.iter_mut().try_for_each(|visitor| visitor.send("/compute?n=100000000000"))?;
    ask_until(&mut client, "/metrics", |response| has_line(response, "server_accepted_total 65"))?;
    let mut late = Client::connect(server)?;
    let refused = late.get("/compute")?;
    assert!(refused.status == 503 && refused.head.contains("retry-after: 1\n"), "{refused:?}");
    assert_eq!(late.get("/")?.status, 200, "the server is overloaded, not down");
    drop(visitors);
    ask_until(&mut client, "/metrics", |response| has_line(response, "server_cancelled_total 64"))?;
    // Nobody computes any more for those who left; a worker that did is at its next look, or its successor starts.
    ask_until(&mut late, "/compute?n=1", |response| response.status == 200 && response.body == "1")?;

    late.send("/compute")?;
    ask_until(&mut client, "/metrics", |response| has_line(response, "server_accepted_total 67"))?;
    stop.send(()).expect("the server waits for it");
    let last = late.receive()?;
    assert!(last.status == 200 && last.body == SUM_OF_ROOTS, "{last:?}");
    Ok(())
}

fn has_line(response: &Response, wanted: &str) -> bool {
    response.body.lines().any(|line| line == wanted)
}

fn ask_until(client: &mut Client, path: &str, is_fine: impl Fn(&Response) -> bool) -> io::Result<()> {
    let start = Instant::now();
    loop {
        let response = client.get(path)?;
        if is_fine(&response) {
            return Ok(());
        }
        assert!(start.elapsed() < LIMIT, "{path} still answers {response:?}");
    }
}
