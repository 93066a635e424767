"""libtorrent (Rasterbar), tuned for one fast seed: no limits, no discovery, deep queues, TCP."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import libtorrent as lt  # type: ignore[import-not-found,unused-ignore]

if TYPE_CHECKING:
    from tools.bench.programs import bench_child as bc
    from tools.bench.programs.work import content as work
else:
    import bench_child as bc
    from work import content as work

TORRENT = Path("content.torrent")
PIECE = 4 << 20
SETTINGS: dict[str, Any] = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_incoming_utp": False,
    "enable_outgoing_utp": False,
    "allow_multiple_connections_per_ip": True,
    "aio_threads": 4,
    "hashing_threads": 2,
    "max_out_request_queue": 4000,
    "max_allowed_in_request_queue": 8000,
    "request_queue_time": 1,
    "send_buffer_watermark": 16 << 20,
    "send_buffer_watermark_factor": 300,
    "send_buffer_low_watermark": 1 << 20,
    "recv_socket_buffer_size": 4 << 20,
    "send_socket_buffer_size": 4 << 20,
    "max_queued_disk_bytes": 256 << 20,
    "out_enc_policy": 2,
    "in_enc_policy": 2,
    "alert_mask": lt.alert.category_t.storage_notification,
}


def make_torrent() -> None:
    files = lt.file_storage()
    lt.add_files(files, str(work.FILE.absolute()))
    creator = lt.create_torrent(files, PIECE)
    lt.set_piece_hashes(creator, str(Path.cwd()))
    TORRENT.write_bytes(lt.bencode(creator.generate()))


def open_session(host: str) -> Any:
    return lt.session({**SETTINGS, "listen_interfaces": f"{host}:0"})


def add(session: Any, folder: Path, *, seeds: bool) -> Any:
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(str(TORRENT))
    params.save_path = str(folder.absolute())
    if seeds:
        params.flags |= lt.torrent_flags.seed_mode
    params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    return session.add_torrent(params)


def serve(child: bc.Child, job: bc.Job) -> None:
    work.make_file()
    if job.case == work.FETCH:
        make_torrent()
    session = open_session(job.host)
    if job.case == work.FETCH:
        add(session, Path.cwd(), seeds=True)
    child.ready("{port}", session.listen_port())
    while True:
        time.sleep(60)


def fetch(child: bc.Child, job: bc.Job) -> None:
    session = open_session(job.host)
    work.OUT.mkdir()
    watch = work.Stopwatch()
    torrent = add(session, work.OUT, seeds=False)
    torrent.connect_peer((job.host, int(job.addr)))
    while not torrent.status().is_seeding:
        time.sleep(0.005)
    # Its pieces are checked before they are written.
    torrent.flush_cache()
    while not any(isinstance(alert, lt.cache_flushed_alert) for alert in session.pop_alerts()):
        session.wait_for_alert(100)
    child.result(watch.fetched(), f"libtorrent {lt.version}: TCP, not encrypted", work.SIZE)


def main(child: bc.Child, job: bc.Job) -> None:
    if job.case not in work.CASES:
        raise bc.Unsupported(f"no such work here: {job.case}")
    if job.role == "server":
        serve(child, job)
    elif job.case == work.FETCH:
        fetch(child, job)
    else:
        watch = work.Stopwatch()
        make_torrent()
        child.result(watch.published(), f"libtorrent {lt.version}: SHA-1 and SHA-256")


if __name__ == "__main__":
    bc.run(main)
