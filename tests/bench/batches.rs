//! Hundreds of datagrams per system call.

use std::io;
use std::mem;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;

use dz_common::LIVENESS_PORT;
use dz_common::packet::PACKET_LEN;

const SIZE: usize = 512;
type Payload = [u8; PACKET_LEN];

/// What a batch is made of, as the kernel wants to have it described.
struct Batch {
    payloads: Vec<Payload>,
    addresses: Vec<libc::sockaddr_in>,
    lengths: Vec<u32>,
}

impl Batch {
    fn new(len: usize) -> Self {
        let address = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: LIVENESS_PORT.to_be(),
            sin_addr: libc::in_addr { s_addr: 0 },
            sin_zero: [0; 8],
        };
        Self {
            payloads: vec![[0; PACKET_LEN]; len],
            addresses: vec![address; len],
            lengths: vec![0; len],
        }
    }

    /// Hands the description of the first `len` to a system call, which says how many it has dealt
    /// with.
    fn describe(
        &mut self,
        len: usize,
        call: impl FnOnce(*mut libc::mmsghdr, libc::c_uint) -> libc::c_int,
    ) -> io::Result<usize> {
        let mut vectors: Vec<_> = self.payloads[..len]
            .iter_mut()
            .map(|payload| libc::iovec {
                iov_base: payload.as_mut_ptr().cast(),
                iov_len: PACKET_LEN,
            })
            .collect();
        let mut headers: Vec<_> = vectors
            .iter_mut()
            .zip(&mut self.addresses)
            .map(|(vector, address)| libc::mmsghdr {
                msg_hdr: libc::msghdr {
                    msg_name: ptr::from_mut(address).cast(),
                    msg_namelen: size_of::<libc::sockaddr_in>() as libc::socklen_t,
                    msg_iov: vector,
                    msg_iovlen: 1,
                    msg_control: ptr::null_mut(),
                    msg_controllen: 0,
                    msg_flags: 0,
                },
                msg_len: 0,
            })
            .collect();
        let done = call(headers.as_mut_ptr(), headers.len() as libc::c_uint);
        for (length, header) in self.lengths.iter_mut().zip(&headers) {
            *length = header.msg_len;
        }
        usize::try_from(done).map_err(|_| io::Error::last_os_error())
    }
}

/// Where datagrams are received.
pub(super) struct Inbox(Batch);

impl Inbox {
    /// So many at once.
    pub(super) const SIZE: usize = SIZE;

    pub(super) fn new() -> Self {
        Self(Batch::new(SIZE))
    }

    /// Receives what is there; how many. On an error none.
    pub(super) fn receive(&mut self, socket: RawFd) -> usize {
        let received = self.0.describe(SIZE, |headers, len| {
            // SAFETY: the description's pointers are those of vectors that outlive the call.
            unsafe { libc::recvmmsg(socket, headers, len, libc::MSG_DONTWAIT, ptr::null_mut()) }
        });
        received.unwrap_or(0)
    }

    /// One of them: who sent it, and what.
    pub(super) fn packet(&self, number: usize) -> (Ipv4Addr, &[u8]) {
        let from = self.0.addresses[number].sin_addr.s_addr.to_ne_bytes();
        let length = (self.0.lengths[number] as usize).min(PACKET_LEN);
        (from.into(), &self.0.payloads[number][..length])
    }
}

/// Where datagrams wait to be sent.
pub(super) struct Outbox {
    batch: Batch,
    waiting: usize,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self {
            batch: Batch::new(SIZE),
            waiting: 0,
        }
    }

    /// Sends one, sooner or later.
    pub(super) fn push(&mut self, socket: &UdpSocket, to: Ipv4Addr, payload: Payload) {
        self.batch.payloads[self.waiting] = payload;
        self.batch.addresses[self.waiting].sin_addr.s_addr = u32::from_ne_bytes(to.octets());
        self.waiting += 1;
        if self.waiting == SIZE {
            self.flush(socket);
        }
    }

    /// Sends all of them. What a full queue does not take is lost, as on a wire.
    pub(super) fn flush(&mut self, socket: &UdpSocket) {
        let waiting = mem::take(&mut self.waiting);
        if waiting > 0 {
            // That it was not sent the sessions will notice.
            let _ = self.batch.describe(waiting, |headers, len| {
                // SAFETY: as above.
                unsafe { libc::sendmmsg(socket.as_raw_fd(), headers, len, libc::MSG_DONTWAIT) }
            });
        }
    }
}
