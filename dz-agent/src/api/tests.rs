use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;

use super::*;
use crate::command::{Command, Connected, Disconnected, Refusal, RefusalKind, Reloaded, Selector};
use crate::error::ExitCode;
use crate::fixture::{self, Fixed, LOCAL};
use crate::metrics::{Exporter, Recorded};
use crate::settings::{MetricsListen, PeerRequest, PeerSpec};

const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

/// An API whose engine refuses peer 10.0.0.9 and grants everything else.
struct Served {
    dir: TempDir,
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl Served {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixSocket::bind(&socket(dir.path()), API).unwrap();
        let (commands, engine) = mpsc::channel(8);
        let inspect = Arc::new(Fixed(fixture::snapshot()));
        let exporter = Arc::new(Exporter::new(inspect.clone(), Recorded::default(), false));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        tokio::spawn(answer(engine));
        tokio::spawn(serve(
            listener,
            api_router(inspect, commands, exporter),
            Clients::Ours,
            async {
                let _ = stopped.await;
            },
        ));
        Self { dir, _stop: stop }
    }

    fn client(&self) -> Client {
        Client::new(&socket(self.dir.path()))
    }

    /// What comes back for a request as written, up to the end of the connection.
    async fn raw(&self, head: &str, body: &str) -> (u16, String, String) {
        let stream = UnixStream::connect(socket(self.dir.path())).await.unwrap();
        exchange(stream, head, body).await
    }

    async fn refused(&self, head: &str, body: &str) -> (u16, Value) {
        let (status, _, body) = self.raw(head, body).await;
        (
            status,
            serde_json::from_str::<Value>(&body).unwrap()["error"].clone(),
        )
    }
}

async fn exchange<S>(mut stream: S, head: &str, body: &str) -> (u16, String, String)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let length = body.len();
    let request = format!(
        "{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_owned(), body.to_owned())
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("run/agent.sock")
}

async fn answer(mut engine: mpsc::Receiver<Command>) {
    while let Some(command) = engine.recv().await {
        match command {
            Command::Connect { peers, reply } => {
                let _ = reply.send(peers.into_iter().map(connected).collect());
            }
            Command::Reload { force: true, reply } => {
                let _ = reply.send(Ok(Reloaded {
                    peers: 4,
                    added: 1,
                    changed: 2,
                    removed: 3,
                }));
            }
            Command::Reload {
                force: false,
                reply,
            } => {
                let why = "9 of 10 peers would be given up";
                let _ = reply.send(Err(Refusal::new(RefusalKind::Conflict, why)));
            }
            Command::Disconnect { selector, reply } => {
                let peers = match selector {
                    Selector::All { .. } => vec![PEER],
                    Selector::Peers(peers) => peers.into_iter().map(|named| named.peer).collect(),
                };
                let gone = |peer| Disconnected {
                    interface: "doublezero0".into(),
                    local: LOCAL,
                    peer,
                    warnings: vec!["could not be told".to_owned()],
                };
                let _ = reply.send(Ok(peers.into_iter().map(gone).collect()));
            }
        }
    }
}

fn connected(spec: PeerSpec) -> Result<Connected, Refusal> {
    if spec.peer == Ipv4Addr::new(10, 0, 0, 9) {
        return Err(Refusal::new(
            RefusalKind::Conflict,
            "peer 10.0.0.9: is configured",
        ));
    }
    let interface = spec.interface.unwrap_or_else(|| "doublezero0".to_owned());
    Ok(Connected {
        interface: interface.into(),
        local: spec.local.unwrap_or(LOCAL),
        peer: spec.peer,
        warnings: Vec::new(),
    })
}

#[tokio::test]
async fn connects_one_and_several() {
    let served = Served::start();
    let one = r#"{"peer":"10.0.0.2","local":"10.0.0.1","tx_interval_us":300000}"#;
    let (status, _, body) = served.raw("POST /v1/peers", one).await;
    assert_eq!(status, 200);
    let body: Value = serde_json::from_str(&body).unwrap();
    let expected = json!({"connected": [
        {"interface": "doublezero0", "local": "10.0.0.1", "peer": "10.0.0.2", "warnings": []}
    ]});
    assert_eq!(body, expected);

    let requests = [PEER, Ipv4Addr::new(10, 0, 0, 3)]
        .map(|peer| PeerRequest::from(&PeerSpec::new(peer, LOCAL)));
    let several: ConnectedJson = served
        .client()
        .send(Method::POST, "/v1/peers", &requests)
        .await
        .unwrap();
    assert_eq!(several.connected.len(), 2);
}

#[tokio::test]
async fn disconnects_by_body_and_by_path() {
    let served = Served::start();
    for (head, body) in [
        ("DELETE /v1/peers", r#"{"peers":["10.0.0.2"]}"#),
        ("DELETE /v1/peers", r#"{"all":true}"#),
        ("DELETE /v1/peers/10.0.0.2", ""),
    ] {
        let (status, _, reply) = served.raw(head, body).await;
        assert_eq!(status, 200, "{head} {body}: {reply}");
        let reply: DisconnectedJson = serde_json::from_str(&reply).unwrap();
        assert_eq!(reply.disconnected[0].peer, PEER);
        assert_eq!(reply.disconnected[0].warnings, ["could not be told"]);
    }
}

#[tokio::test]
async fn reloads_by_force_alone() {
    let served = Served::start();
    let body = r#"{"force":true}"#;
    let (status, _, reply) = served.raw("POST /v1/reload", body).await;
    let expected = json!({"peers": 4, "added": 1, "changed": 2, "removed": 3});
    assert_eq!(
        (status, serde_json::from_str::<Value>(&reply).unwrap()),
        (200, expected)
    );
    for body in ["", "{}", r#"{"force":false}"#] {
        let (status, error) = served.refused("POST /v1/reload", body).await;
        assert_eq!(
            (status, &error["kind"]),
            (409, &json!("conflict")),
            "{body}"
        );
    }
    let (status, _) = served.refused("POST /v1/reload", r#"{"fore":true}"#).await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn a_batch_lists_every_fault() {
    let served = Served::start();
    let batch = json!([
        {"peer": "fe80::1", "local": "10.0.0.1"},
        {"peer": "10.0.0.2", "local": "10.0.0.2"},
        {"peer": "10.0.0.3", "local": "0.0.0.0", "interface": "a/b"},
        {"peer": "10.0.0.4", "local": "10.0.0.1", "detect_mult": 0},
        {"peer": "10.0.0.5", "local": "10.0.0.1"},
        {"peer": "10.0.0.5", "local": "10.0.0.1"},
    ]);
    let (status, error) = served.refused("POST /v1/peers", &batch.to_string()).await;
    assert_eq!(status, 400);
    assert_eq!(error["kind"], "invalid");
    let faults = error["faults"].as_array().unwrap();
    assert_eq!(faults.len(), 6, "{faults:?}");
    assert!(
        faults[0]
            .as_str()
            .unwrap()
            .contains(crate::settings::address::NO_IPV6),
        "{faults:?}"
    );
}

#[tokio::test]
async fn refusals_have_a_status_and_a_reason() {
    let served = Served::start();
    let peer = r#"{"peer":"10.0.0.2","local":"10.0.0.1"}"#;
    let configured = r#"{"peer":"10.0.0.9","local":"10.0.0.1"}"#;
    let extra = r#"{"peer":"10.0.0.2","local":"10.0.0.1","gateway":"10.0.0.7"}"#;
    for (head, body, status, kind, said) in [
        (
            "POST /v1/peers",
            configured,
            409,
            "conflict",
            "is configured",
        ),
        (
            "POST /v1/peers",
            extra,
            400,
            "invalid",
            "unknown field `gateway`",
        ),
        ("POST /v1/peers", "{", 400, "invalid", "EOF"),
        ("POST /v1/peers", "[]", 400, "invalid", "no peer"),
        (
            "POST /v1/peers",
            r#"{"peer":"10.0.0.2","local":"127.0.0.1"}"#,
            400,
            "invalid",
            "local 127.0.0.1 is a loopback address",
        ),
        ("DELETE /v1/peers", "{}", 400, "invalid", "say which"),
        (
            "DELETE /v1/peers/nonsense",
            "",
            400,
            "invalid",
            "not an IPv4 address",
        ),
        ("PUT /v1/peers", peer, 405, "invalid", "PUT is not possible"),
        ("GET /v2/peers", "", 404, "not_found", "no such path"),
    ] {
        let (got, error) = served.refused(head, body).await;
        assert_eq!(
            (got, error["kind"].as_str().unwrap()),
            (status, kind),
            "{head}: {error}"
        );
        let faults = error["faults"].to_string();
        assert!(faults.contains(said), "{head}: {faults}");
    }
}

#[tokio::test]
async fn a_body_without_end_is_cut_off() {
    let served = Served::start();
    let mut stream = UnixStream::connect(socket(served.dir.path()))
        .await
        .unwrap();
    let head = "POST /v1/peers HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n[";
    stream.write_all(head.as_bytes()).await.unwrap();
    // The reply comes while the body is still being sent, which then fails.
    let (mut read, mut write) = stream.into_split();
    let sender =
        tokio::spawn(async move { while write.write_all(&[b' '; 65_536]).await.is_ok() {} });
    let mut reply = [0; 12];
    read.read_exact(&mut reply).await.unwrap();
    assert_eq!(&reply, b"HTTP/1.1 413");
    drop(read);
    sender.await.unwrap();
}

#[tokio::test]
async fn shows_what_the_kernel_has() {
    let served = Served::start();
    let sessions: Value = served.client().get("/v1/sessions").await.unwrap();
    let up = &sessions["sessions"][0];
    for (field, expected) in [
        ("interface", json!("doublezero0")),
        ("peer", json!("10.0.0.2")),
        ("state", json!("up")),
        ("state_for_seconds", json!(60.0)),
        ("last_down_reason", json!("timeout")),
        (
            "route",
            json!({"state": "present", "via": null, "src": "10.0.0.1"}),
        ),
        ("peer_mode", json!("passive")),
        ("effective_mode", json!("passive")),
        ("passive_end", json!("peer")),
        ("detour", json!("eth0")),
        ("peer_version", json!("0.7.1-other")),
        ("detect_time_us", json!(3_000_000)),
        ("sent", json!(990)),
        ("last_receipt_ago_us", json!(250_000)),
    ] {
        assert_eq!(up[field], expected, "{field}");
    }
    let never = &sessions["sessions"][1];
    assert_eq!(never["peer_version"], Value::Null);
    assert_eq!(never["last_receipt_ago_us"], Value::Null);
    assert_eq!(never["route"], json!({"state": "foreign", "protocol": 186}));

    let counters: CountersJson = served.client().get("/v1/counters").await.unwrap();
    assert_eq!(counters.blocks[0].interface, None);
    assert_eq!(counters.blocks[1].counters["rx_answered"], 900);
    assert_eq!(
        counters.blocks[1].counters.len(),
        dz_common::counters::Counter::COUNT
    );

    let status: StatusJson = served.client().get("/v1/status").await.unwrap();
    assert_eq!(status.sessions["up"], 1);
    assert_eq!(status.interfaces[0].attach.as_deref(), Some("tc"));
}

#[tokio::test]
async fn metrics_in_the_format_asked_for() {
    let served = Served::start();
    let (status, head, body) = served.raw("GET /metrics", "").await;
    assert_eq!(status, 200);
    assert!(
        head.to_lowercase()
            .contains("content-type: text/plain; version=0.0.4; charset=utf-8")
    );
    assert!(body.contains("# TYPE doublezero_liveness_answered_total counter"));

    // All addresses, which IPv4 is served on, too.
    let listener = MetricsListener::bind(&MetricsListen::Everywhere(0)).unwrap();
    let port = listener.place().unwrap().port();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let taken = MetricsListener::bind(&MetricsListen::At(address)).unwrap_err();
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse, "{taken}");
    let inspect = Arc::new(Fixed(fixture::snapshot()));
    let exporter = Arc::new(Exporter::new(inspect, Recorded::default(), false));
    let server = tokio::spawn(serve(
        listener,
        metrics_router(exporter),
        Clients::Anybodys,
        std::future::pending(),
    ));
    let head = "GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text\r\nX: ";
    let stream = TcpStream::connect(address).await.unwrap();
    let (_, head, body) = exchange(stream, head, "").await;
    assert!(
        head.to_lowercase()
            .contains("content-type: application/openmetrics-text"),
        "{head}"
    );
    assert!(body.ends_with("# EOF\n"));
    let stream = TcpStream::connect(address).await.unwrap();
    assert_eq!(
        exchange(stream, "GET /v1/sessions", "").await.0,
        404,
        "metrics only"
    );
    server.abort();
}

#[tokio::test]
async fn who_has_said_everything_may_close_that_half() {
    let served = Served::start();
    let path = socket(served.dir.path());
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream
        .write_all(b"GET /v1/status HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
}

#[tokio::test]
async fn the_socket_is_the_owners_alone() {
    let served = Served::start();
    let path = socket(served.dir.path());
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o755);
}

#[tokio::test]
async fn a_living_agents_socket_is_refused_and_a_dead_ones_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = socket(dir.path());
    let living = UnixSocket::bind(&path, API).unwrap();
    let refused = UnixSocket::bind(&path, API).unwrap_err();
    assert_eq!(refused.code, ExitCode::Busy, "{refused}");
    assert!(
        UnixStream::connect(&path).await.is_ok(),
        "still the first one's"
    );
    drop(living);
    assert!(!path.exists());

    // A killed agent leaves its file.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let replaced = UnixSocket::bind(&path, API).unwrap();
    assert!(UnixStream::connect(&path).await.is_ok());
    drop(replaced);

    std::fs::write(&path, "precious").unwrap();
    let refused = UnixSocket::bind(&path, API).unwrap_err();
    assert_eq!(refused.code, ExitCode::Failure, "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[tokio::test]
async fn nobody_at_the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::new(&dir.path().join("none.sock"));
    let failure = client.get::<Value>("/v1/status").await.unwrap_err();
    assert_eq!(failure.code, ExitCode::Unreachable);
    assert!(failure.to_string().contains("dz-agent run"), "{failure}");
}

#[tokio::test]
async fn the_engines_word_reaches_the_client() {
    let served = Served::start();
    let configured = PeerSpec::new(Ipv4Addr::new(10, 0, 0, 9), LOCAL);
    let request = [PeerRequest::from(&configured)];
    let sent = served
        .client()
        .send::<Value>(Method::POST, "/v1/peers", &request)
        .await;
    let failure = sent.unwrap_err();
    assert_eq!(failure.code, ExitCode::Refused);
    assert_eq!(
        failure.to_string(),
        "agent refused: peer 10.0.0.9: is configured"
    );
}

#[tokio::test]
async fn an_engine_that_stops_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixSocket::bind(&socket(dir.path()), API).unwrap();
    let (commands, engine) = mpsc::channel(1);
    let inspect = Arc::new(Fixed(fixture::snapshot()));
    let exporter = Arc::new(Exporter::new(inspect.clone(), Recorded::default(), false));
    drop(engine);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(serve(
        listener,
        api_router(inspect, commands, exporter),
        Clients::Ours,
        async {
            let _ = stopped.await;
        },
    ));
    let client = Client::new(&socket(dir.path()));
    let all = DisconnectRequest {
        all: true,
        ..DisconnectRequest::default()
    };
    let failure = client
        .send::<Value>(Method::DELETE, "/v1/peers", &all)
        .await
        .unwrap_err();
    assert!(failure.to_string().contains("stopping"), "{failure}");

    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(30), server)
        .await
        .unwrap()
        .unwrap();
    assert!(!socket(dir.path()).exists());
}
