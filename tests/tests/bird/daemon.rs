//! Two BIRDs and no agent: what the other tests of this group rely on.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use crate::scene::{Hosts, Kind};

const ALL: [usize; 3] = [0, 1, 2];

/// Routes with their sources appear, one goes and comes back; those of a BIRD that is told to end
/// go with it, those of one that is killed stay, and are the next one's.
pub(crate) fn alone(kind: Kind) -> Result<()> {
    let hosts = Hosts::new(kind, 3)?;
    let (here, there) = (&hosts.here, &hosts.there);
    let bird = here.bird(there)?;
    let far = there.bird(here)?;
    bird.until_established()?;
    here.until_routes(there, &ALL)?;
    there.until_routes(here, &ALL)?;
    let view = bird.settled_view()?;
    ensure!(view == bird.view()?, "a view changes by itself");

    far.withdraw(1)?;
    here.until_routes(there, &[0, 2])?;
    ensure!(view != bird.view()?, "a view without what there is to see");
    far.announce(1)?;
    here.until_routes(there, &ALL)?;
    there.until_routes(here, &ALL)?;

    bird.end(Signal::SIGTERM)?;
    there.until_routes(here, &[])?;
    here.until_routes(there, &[])?;
    let bird = here.bird(there)?;
    here.until_routes(there, &ALL)?;
    there.until_routes(here, &ALL)?;

    bird.end(Signal::SIGKILL)?;
    there.until_routes(here, &[])?;
    here.until_routes(there, &ALL)?;
    let _bird = here.bird(there)?;
    there.until_routes(here, &ALL)?;
    here.until_routes(there, &ALL)
}
