/* Concurrency Kit's ck_fifo_mpmc, Michael and Scott's list of many producers and consumers, with its nodes reclaimed
 * by epochs.
 *
 * A node that a consumer has unlinked may still be read, and compared with, by threads that reached it before.
 * ck_fifo_mpmc guards head and tail with generations, but sets a node's own generation back to 0 when the node is put
 * in again, so a node reused at once lets a delayed producer link its item behind a node that is not in the list: the
 * item is lost. Therefore each operation is a section of ck_epoch, and an unlinked node goes back to its producer
 * only when every section that was open then has ended.
 *
 * A thread suspended inside a section stops nobody, but nodes pile up, one for each item that passes meanwhile: the
 * bound holds for items, not for nodes. ck_fifo_hp.c has a bound there too, and pays for it on each step.
 *
 * Who runs what: each peer has an epoch record and uses it in its own calls only; records live as long as the queue.
 * Source: ck_fifo.h, ck_epoch(3) of Concurrency Kit 0.7.1; Michael and Scott, PODC 1996; Fraser, "Practical
 * lock-freedom", 2004.
 */
#include "queue/family/ck.h"
#include "queue/family/list.h"

#define CK_FIFO_POLL_EVERY 32 /* unlinked nodes */

struct ck_fifo_node {
	struct node node;
	_Alignas(16) struct ck_fifo_mpmc_entry entry;
	ck_epoch_entry_t epoch;
};

struct ck_fifo_peer {
	_Alignas(CACHE_LINE) ck_epoch_record_t record;
	unsigned unlinked;
};

struct ck_fifo_epoch {
	struct family_queue base;
	struct ck_fifo_peer *peers; /* producers, then consumers */
	ck_epoch_t epoch;
	struct list list;
	_Alignas(CACHE_LINE) struct ck_fifo_mpmc fifo;
};

static void ck_fifo_epoch_done(struct family_queue *q)
{
	struct ck_fifo_epoch *c = container_of(q, struct ck_fifo_epoch, base);

	list_done(&c->list);
	free(c->peers);
	free(c);
}

static int ck_fifo_epoch_init(const struct family_ops *ops, const struct family_opts *opts, struct family_queue **ret)
{
	struct ck_fifo_epoch *c = family_alloc(sizeof *c);
	unsigned peers = opts->producers + opts->consumers;
	struct node *stub;

	if (c == NULL)
		return -ENOMEM;
	c->base.ops = ops;
	c->peers = family_alloc(peers * sizeof *c->peers);
	if (c->peers == NULL || list_init(&c->list, opts, sizeof(struct ck_fifo_node), &stub) != 0) {
		free(c->peers);
		free(c);
		return -ENOMEM;
	}
	ck_epoch_init(&c->epoch);
	for (unsigned i = 0; i < peers; i++)
		ck_epoch_register(&c->epoch, &c->peers[i].record, NULL);
	ck_fifo_mpmc_init(&c->fifo, &container_of(stub, struct ck_fifo_node, node)->entry);
	*ret = &c->base;
	return 0;
}

static char ck_fifo_grace; /* for TSan: see ck.h */

static void ck_fifo_reclaim(ck_epoch_entry_t *entry)
{
	ck_grace_over(&ck_fifo_grace);
	node_put(&container_of(entry, struct ck_fifo_node, epoch)->node);
}

static void ck_fifo_leave(struct ck_fifo_peer *peer)
{
	ck_grace_leave(&ck_fifo_grace);
	ck_epoch_end(&peer->record, NULL);
}

static void ck_fifo_epoch_link(struct family_queue *q, unsigned who, struct node *node, uint64_t item)
{
	struct ck_fifo_epoch *c = container_of(q, struct ck_fifo_epoch, base);
	struct ck_fifo_peer *peer = &c->peers[who];

	ck_epoch_begin(&peer->record, NULL);
	ck_fifo_mpmc_enqueue(&c->fifo, &container_of(node, struct ck_fifo_node, node)->entry, (void *)(uintptr_t)item);
	ck_fifo_leave(peer);
}

static bool ck_fifo_epoch_unlink(struct family_queue *q, unsigned who, uint64_t *ret_item)
{
	struct ck_fifo_epoch *c = container_of(q, struct ck_fifo_epoch, base);
	struct ck_fifo_peer *peer = &c->peers[c->list.producers + who];
	struct ck_fifo_mpmc_entry *garbage;
	void *item;
	bool any;

	ck_epoch_begin(&peer->record, NULL);
	any = ck_fifo_mpmc_dequeue(&c->fifo, &item, &garbage);
	ck_fifo_leave(peer);
	if (!any)
		return false;
	*ret_item = (uintptr_t)item;
	ck_epoch_call(&peer->record, &container_of(garbage, struct ck_fifo_node, entry)->epoch, ck_fifo_reclaim);
	if (++peer->unlinked % CK_FIFO_POLL_EVERY == 0)
		ck_epoch_poll(&peer->record);
	return true;
}

static int ck_fifo_epoch_push(struct family_queue *q, unsigned who, const uint64_t *items, unsigned n)
{
	return list_push(&container_of(q, struct ck_fifo_epoch, base)->list, q, who, items, n,
			 sizeof(struct ck_fifo_node), ck_fifo_epoch_link);
}
static int ck_fifo_epoch_pop(struct family_queue *q, unsigned who, uint64_t *items, unsigned n)
{
	return list_pop(&container_of(q, struct ck_fifo_epoch, base)->list, q, who, items, n, ck_fifo_epoch_unlink);
}

static int ck_fifo_epoch_enqueue(struct family_queue *q, unsigned who, const uint64_t *items, unsigned n, bool wait)
{
	return blocking_enqueue(&container_of(q, struct ck_fifo_epoch, base)->list.blocking, q, who, items, n, wait,
				ck_fifo_epoch_push);
}
static int ck_fifo_epoch_dequeue(struct family_queue *q, unsigned who, uint64_t *items, unsigned n, bool wait)
{
	return blocking_dequeue(&container_of(q, struct ck_fifo_epoch, base)->list.blocking, q, who, items, n, wait,
				ck_fifo_epoch_pop);
}
static void ck_fifo_epoch_close(struct family_queue *q)
{
	blocking_close(&container_of(q, struct ck_fifo_epoch, base)->list.blocking);
}

const struct family_ops family_ck_fifo_epoch = {
	.name = "ck-fifo-epoch",
	.about = "Concurrency Kit's ck_fifo of many producers and consumers, nodes reclaimed by epochs",
	.order = FAMILY_FIFO,
	.peer = FAMILY_PEER_ANY,
	.bounded = true,
	.init = ck_fifo_epoch_init,
	.done = ck_fifo_epoch_done,
	.enqueue = ck_fifo_epoch_enqueue,
	.dequeue = ck_fifo_epoch_dequeue,
	.close = ck_fifo_epoch_close,
};
