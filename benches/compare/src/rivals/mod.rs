//! How the rivals do what is asked, each in the way its own documentation shows.

pub mod iceoryx;
pub mod ipc;
pub mod scripts;
pub mod sockets;
pub mod threads;

/// Has rivals say nothing but errors.
pub fn be_quiet() {
    iceoryx2::prelude::set_log_level(iceoryx2::prelude::LogLevel::Error);
}

/// The other process of a rival.
pub fn play(role: &str, arguments: &[String]) {
    match role {
        "iceoryx" => iceoryx::play(arguments).expect("iceoryx2 answers"),
        "ipc" => ipc::play(arguments).expect("ipc-channel answers"),
        "socket" => sockets::play(arguments).expect("the socket answers"),
        _ => panic!("no role is called {role}"),
    }
}
