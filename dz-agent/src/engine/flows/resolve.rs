//! Resolves next hops to Ethernet addresses, by the kernel's neighbour tables, and gives sessions that have
//! waited for one their turn.

use dz_common::ingress::Link;
use dz_common::map::SessionKey;

use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::engine::state::next_hops::Neighbour;
use crate::hash::HashSet;

impl<H: Hands> Engine<H> {
    /// Asks the kernel about next hops, as many as may be under way at a time.
    fn ask_about_next_hops(&mut self) {
        while let Some(hop) = self.sessions.next_hops_mut().next_to_ask() {
            let (ifindex, next_hop) = hop;
            let answer = self.hands.resolve(ifindex, next_hop);
            self.sessions.next_hops_mut().asked(hop, answer);
        }
    }

    /// Notes that the kernel has resolved a next hop, or does not know it any more.
    pub(crate) fn neighbour_changed(&mut self, neighbour: Neighbour) {
        let (ifindex, _, mac) = neighbour;
        // A next hop that is not known any more is noted for any interface: ours may be gone already.
        if mac.is_none() || self.interfaces.with_index(ifindex).is_some() {
            let waited = self.sessions.next_hops_mut().found(neighbour);
            self.wait_no_longer(waited);
        }
    }

    /// Notes the kernel's answer about a next hop.
    pub(crate) fn next_hop_looked_up(&mut self, found: Neighbour) {
        let waited = self.sessions.next_hops_mut().looked_up(found);
        self.ask_about_next_hops();
        self.wait_no_longer(waited);
    }

    /// Reads the neighbour tables unless they are up to date: after a takeover, and after notifications were
    /// lost. It takes one dump per interface, for a hundred thousand sessions may be behind a few next hops.
    /// Returns why that failed, if it did.
    pub(crate) async fn read_neighbours(&mut self) -> Option<anyhow::Error> {
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

    /// Has the kernel resolve every next hop that is not known. Our clock would not for sessions whose peers'
    /// clocks tick first: their answers need no next hop, but a farewell does.
    pub(crate) fn resolve_missing(&mut self) {
        let now_ns = self.hands.now_ns();
        for key in self.sessions.unresolved() {
            self.resolve(&key, now_ns);
        }
    }

    /// Has the kernel resolve a session's next hop.
    pub(crate) fn resolve(&mut self, key: &SessionKey, now_ns: u64) {
        self.sessions.resolve(key, now_ns);
        self.ask_about_next_hops();
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
