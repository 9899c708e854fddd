//! What the server does when it is started without a port: everything once, as its visitors see it.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use workring_programs::{Client, Response, SUM_OF_ROOTS};

/// The longest that what was done takes to be seen.
const LIMIT: Duration = Duration::from_secs(20);

/// Ends with the server stopped, by `stop`, in the middle of a computation.
pub(crate) async fn try_out(server: SocketAddr, stop: oneshot::Sender<()>) -> io::Result<()> {
    let mut client = Client::connect(server).await?;
    assert_eq!(client.get("/").await?.body, "ok\n");
    assert_eq!(client.get("/compute?n=4").await?.body, (1.0 + 2_f64.sqrt() + 3_f64.sqrt() + 2.0).to_string());
    assert_eq!(client.get("/compute?n=many").await?.status, 400);

    // As many as the queue holds, each for minutes, by visitors that lose patience.
    let mut visitors = JoinSet::new();
    for _ in 0..64 {
        let mut visitor = Client::connect(server).await?;
        visitors.spawn(async move { visitor.get("/compute?n=100000000000").await });
    }
    ask_until(&mut client, "/metrics", |response| has_line(response, "server_accepted_total 65")).await?;
    let mut late = Client::connect(server).await?;
    let refused = late.get("/compute").await?;
    let retry = refused.head.get("retry-after").is_some_and(|after| after == "1");
    assert!(refused.status == 503 && retry, "{refused:?}");
    assert_eq!(late.get("/").await?.status, 200, "the server is overloaded, not down");
    assert!(visitors.try_join_next().is_none(), "all of them still wait");
    visitors.shutdown().await;
    ask_until(&mut client, "/metrics", |response| has_line(response, "server_cancelled_total 64")).await?;
    // No worker computes for visitors that left; one that did is at its next look, or its successor starts.
    ask_until(&mut late, "/compute?n=1", |response| response.status == 200 && response.body == "1").await?;

    let last = tokio::spawn(async move { late.get("/compute").await });
    ask_until(&mut client, "/metrics", |response| has_line(response, "server_accepted_total 67")).await?;
    stop.send(()).expect("the server waits for it");
    let last = last.await.expect("no panic")?;
    assert!(last.status == 200 && last.body == SUM_OF_ROOTS, "{last:?}");
    Ok(())
}

fn has_line(response: &Response, wanted: &str) -> bool {
    response.body.lines().any(|line| line == wanted)
}

async fn ask_until(client: &mut Client, path: &str, is_fine: impl Fn(&Response) -> bool) -> io::Result<()> {
    let start = Instant::now();
    loop {
        let response = client.get(path).await?;
        if is_fine(&response) {
            return Ok(());
        }
        assert!(start.elapsed() < LIMIT, "{path} still answers {response:?}");
    }
}
