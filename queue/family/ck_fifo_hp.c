/* Michael and Scott's list of many producers and consumers over Concurrency Kit's hazard pointers (ck_hp).
 *
 * CK ships this queue as ck_hp_fifo.h, but in 0.7.1 that is not safe with nodes that come back. Its enqueue swings
 * `&fifo->tail->next`, reading tail again after it has protected and checked it, so it may write into a node that it
 * does not protect; and its dequeue reads tail before it protects head, so with head removed, reused and become head
 * again in between, an old tail makes it set head to NULL. Here the steps are those of Michael's paper: protect,
 * check that what was protected is still in its place, and only then look or write through it.
 *
 * Garbage is bounded: each consumer keeps at most a threshold of unlinked nodes, whoever is suspended.
 *
 * Each peer has a hazard record (two pointers) and uses it in its own calls only.
 * Source: Michael, "Hazard pointers", IEEE TPDS 15(6), 2004, figure 6; ck_hp(3) of Concurrency Kit 0.7.1.
 */
#include "queue/family/ck.h"
#include "queue/family/list.h"

#define CK_HP_DEGREE 2

struct ck_hp_node {
	struct node node;
	uint64_t item;
	struct ck_hp_node *next;
	ck_hp_hazard_t hazard;
};

struct ck_hp_peer {
	_Alignas(CACHE_LINE) ck_hp_record_t record;
	void *pointers[CK_HP_DEGREE];
};

struct ck_fifo_hp {
	struct family_queue base;
	struct ck_hp_peer *peers; /* producers, then consumers */
	ck_hp_t hp;
	struct list list;
	_Alignas(CACHE_LINE) struct ck_hp_node *head; /* a stub: its item has been taken */
	_Alignas(CACHE_LINE) struct ck_hp_node *tail; /* the last node, or the one before it */
};

static char ck_hp_grace; /* for TSan: see ck.h */

/* No hazard pointer names the node any more. Runs inside ck_hp_free of some consumer. */
static void ck_hp_reclaimed(void *data)
{
	ck_grace_over(&ck_hp_grace);
	node_put(data);
}

static void ck_fifo_hp_done(struct family_queue *q)
{
	struct ck_fifo_hp *c = container_of(q, struct ck_fifo_hp, base);

	list_done(&c->list);
	free(c->peers);
	free(c);
}

static int ck_fifo_hp_init(const struct family_ops *ops, const struct family_opts *opts, struct family_queue **ret)
{
	struct ck_fifo_hp *c = family_alloc(sizeof *c);
	unsigned peers = opts->producers + opts->consumers;
	struct node *stub;

	if (c == NULL)
		return -ENOMEM;
	c->base.ops = ops;
	c->peers = family_alloc(peers * sizeof *c->peers);
	if (c->peers == NULL || list_init(&c->list, opts, sizeof(struct ck_hp_node), &stub) != 0) {
		free(c->peers);
		free(c);
		return -ENOMEM;
	}
	ck_hp_init(&c->hp, CK_HP_DEGREE, 2 * CK_HP_DEGREE * peers + 32, ck_hp_reclaimed);
	for (unsigned i = 0; i < peers; i++)
		ck_hp_register(&c->hp, &c->peers[i].record, c->peers[i].pointers);
	c->head = c->tail = container_of(stub, struct ck_hp_node, node);
	c->head->next = NULL;
	*ret = &c->base;
	return 0;
}

/* Names p as in use, in place of what hazard i named before. */
static void ck_fifo_hp_protect(ck_hp_record_t *record, unsigned i, struct ck_hp_node *p)
{
	ck_grace_leave(&ck_hp_grace);
	ck_hp_set_fence(record, i, p);
}

static void ck_fifo_hp_leave(struct ck_hp_peer *peer)
{
	ck_grace_leave(&ck_hp_grace);
	for (unsigned i = 0; i < CK_HP_DEGREE; i++)
		ck_hp_set(&peer->record, i, NULL);
}

static void ck_fifo_hp_link(struct family_queue *q, unsigned who, struct node *free_node, uint64_t item)
{
	struct ck_fifo_hp *c = container_of(q, struct ck_fifo_hp, base);
	struct ck_hp_peer *peer = &c->peers[who];
	struct ck_hp_node *node = container_of(free_node, struct ck_hp_node, node), *tail, *next;

	node->item = item;
	node->next = NULL;
	ck_pr_fence_store_atomic();
	for (;;) {
		tail = ck_pr_load_ptr(&c->tail);
		ck_fifo_hp_protect(&peer->record, 0, tail);
		if (tail != ck_pr_load_ptr(&c->tail))
			continue;
		next = ck_pr_load_ptr(&tail->next);
		if (next != NULL)
			ck_pr_cas_ptr(&c->tail, tail, next); /* help the one who linked it */
		else if (ck_pr_cas_ptr(&tail->next, NULL, node))
			break;
	}
	ck_pr_cas_ptr(&c->tail, tail, node);
	ck_fifo_hp_leave(peer);
}

/* The node that was the stub, with the item in *ret_item; NULL when empty. */
static struct ck_hp_node *ck_fifo_hp_advance(struct ck_fifo_hp *c, ck_hp_record_t *record, uint64_t *ret_item)
{
	struct ck_hp_node *head, *tail, *next;

	for (;;) {
		head = ck_pr_load_ptr(&c->head);
		ck_fifo_hp_protect(record, 0, head);
		if (head != ck_pr_load_ptr(&c->head))
			continue;
		tail = ck_pr_load_ptr(&c->tail);
		ck_pr_fence_load();
		next = ck_pr_load_ptr(&head->next);
		ck_fifo_hp_protect(record, 1, next);
		if (head != ck_pr_load_ptr(&c->head))
			continue;
		if (next == NULL)
			return NULL;
		if (head == tail) {
			ck_pr_cas_ptr(&c->tail, tail, next);
			continue;
		}
		if (ck_pr_cas_ptr(&c->head, head, next)) {
			*ret_item = next->item; /* next is the stub now, and ours to read while hazard 1 names it */
			return head;
		}
	}
}

static bool ck_fifo_hp_unlink(struct family_queue *q, unsigned who, uint64_t *ret_item)
{
	struct ck_fifo_hp *c = container_of(q, struct ck_fifo_hp, base);
	struct ck_hp_peer *peer = &c->peers[c->list.producers + who];
	struct ck_hp_node *old = ck_fifo_hp_advance(c, &peer->record, ret_item);

	ck_fifo_hp_leave(peer);
	if (old == NULL)
		return false;
	ck_hp_free(&peer->record, &old->hazard, &old->node, old);
	return true;
}

static int ck_fifo_hp_push(struct family_queue *q, unsigned who, const uint64_t *items, unsigned n)
{
	return list_push(&container_of(q, struct ck_fifo_hp, base)->list, q, who, items, n, sizeof(struct ck_hp_node),
			 ck_fifo_hp_link);
}
static int ck_fifo_hp_pop(struct family_queue *q, unsigned who, uint64_t *items, unsigned n)
{
	return list_pop(&container_of(q, struct ck_fifo_hp, base)->list, q, who, items, n, ck_fifo_hp_unlink);
}

static int ck_fifo_hp_enqueue(struct family_queue *q, unsigned who, const uint64_t *items, unsigned n, bool wait)
{
	return blocking_enqueue(&container_of(q, struct ck_fifo_hp, base)->list.blocking, q, who, items, n, wait,
				ck_fifo_hp_push);
}
static int ck_fifo_hp_dequeue(struct family_queue *q, unsigned who, uint64_t *items, unsigned n, bool wait)
{
	return blocking_dequeue(&container_of(q, struct ck_fifo_hp, base)->list.blocking, q, who, items, n, wait,
				ck_fifo_hp_pop);
}
static void ck_fifo_hp_close(struct family_queue *q)
{
	blocking_close(&container_of(q, struct ck_fifo_hp, base)->list.blocking);
}

const struct family_ops family_ck_fifo_hp = {
	.name = "ck-fifo-hp",
	.about = "Michael and Scott's list over Concurrency Kit's hazard pointers",
	.order = FAMILY_FIFO,
	.peer = FAMILY_PEER_ANY,
	.bounded = true,
	.init = ck_fifo_hp_init,
	.done = ck_fifo_hp_done,
	.enqueue = ck_fifo_hp_enqueue,
	.dequeue = ck_fifo_hp_dequeue,
	.close = ck_fifo_hp_close,
};
