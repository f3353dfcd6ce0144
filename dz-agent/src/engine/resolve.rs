//! Knowing where frames to peers go: the kernel's neighbour tables, and the sessions that wait for an
//! entry there.

use dz_common::ingress::Link;
use dz_common::map::SessionKey;
use foldhash::HashSet;

use super::hands::Hands;
use super::parts::Engine;
use super::state::next_hops::Neighbour;

impl<H: Hands> Engine<H> {
    /// Notes what the kernel has notified us of: a next hop was resolved, or is not known any more.
    pub(super) fn neighbour_changed(&mut self, neighbour: Neighbour) {
        let (ifindex, _, mac) = neighbour;
        // The end of one is noted whosever it was: its interface may be gone already.
        if mac.is_none() || self.interfaces.with_index(ifindex).is_some() {
            let waited = self.sessions.next_hops_mut().found(neighbour);
            self.wait_no_longer(waited);
        }
    }

    /// Notes what the kernel has answered about a next hop.
    pub(super) fn next_hop_looked_up(&mut self, found: Neighbour) {
        let waited = self.sessions.next_hops_mut().looked_up(&self.hands, found);
        self.wait_no_longer(waited);
    }

    /// Reads the neighbour tables, unless they are known: after a takeover, and after notifications were
    /// lost. One dump per interface, for there may be a hundred thousand sessions behind a few next
    /// hops. Returns what could not be read.
    pub(super) async fn read_neighbours(&mut self) -> Option<anyhow::Error> {
        let ethernet = self.interfaces.iter();
        let ethernet = ethernet.filter(|interface| interface.link() == Some(Link::Ethernet));
        let ethernet: HashSet<u32> = ethernet.filter_map(|i| i.ifindex()).collect();
        self.sessions.next_hops_mut().retain(&ethernet);
        if self.sessions.next_hops().is_up_to_date() {
            return None;
        }
        let mut unread = None;
        for ifindex in ethernet {
            match self.hands.neighbours(ifindex).await {
                Ok(table) => {
                    let waited = self.sessions.next_hops_mut().read(ifindex, table);
                    self.wait_no_longer(waited);
                }
                Err(error) => unread = Some(anyhow::Error::from(error).context("neighbours")),
            }
        }
        self.sessions
            .next_hops_mut()
            .set_up_to_date(unread.is_none());
        unread
    }

    /// Has the kernel resolve every next hop that is not known. Our clock asks as well, but not for
    /// sessions whose peers' clocks tick first: their answers need no next hop, and AdminDown does.
    pub(super) fn resolve_missing(&mut self) {
        let now_ns = self.hands.now_ns();
        for key in self.sessions.unresolved() {
            self.resolve(&key, now_ns);
        }
    }

    /// Has the kernel resolve a session's next hop.
    pub(super) fn resolve(&mut self, key: &SessionKey, now_ns: u64) {
        self.sessions.resolve(&self.hands, key, now_ns);
    }

    /// Gives sessions their turn now that their next hop is resolved.
    fn wait_no_longer(&mut self, sessions: HashSet<SessionKey>) {
        let now_ns = self.hands.now_ns();
        for key in sessions {
            if !self.closings.resolved(key, now_ns) {
                self.sessions.look_by(key, now_ns);
            }
        }
    }
}
